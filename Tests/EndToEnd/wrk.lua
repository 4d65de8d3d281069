-- Prints one line that a test can read.
function done(summary, latency)
   local e = summary.errors
   io.write(string.format(
      '{"requests":%d,"connect":%d,"read":%d,"write":%d,"status":%d,"timeout":%d,"p99_us":%d,"seconds":%.2f}\n',
      summary.requests, e.connect, e.read, e.write, e.status, e.timeout,
      latency:percentile(99), summary.duration / 1e6))
end
