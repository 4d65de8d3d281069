/// How this module hands memory to C.
extension UnsafeRawBufferPointer {
    static var empty: UnsafeRawBufferPointer { UnsafeRawBufferPointer(start: nil, count: 0) }

    /// Where the bytes start. An empty buffer may start nowhere, while C wants an address even for no bytes: it gets one
    /// that is valid and that nobody reads.
    var start: UnsafePointer<UInt8> {
        assumingMemoryBound(to: UInt8.self).baseAddress ?? ("" as StaticString).utf8Start
    }
}

extension UnsafeMutableRawBufferPointer {
    /// As above; of an empty buffer nobody writes a byte.
    var start: UnsafeMutablePointer<UInt8> {
        assumingMemoryBound(to: UInt8.self).baseAddress
            ?? UnsafeMutablePointer(mutating: ("" as StaticString).utf8Start)
    }
}

extension RawSpan {
    /// Appends these bytes to `output`, which has room for them.
    package func append(to output: inout OutputRawSpan) {
        precondition(output.freeCapacity >= byteCount, "there is no room for the bytes")
        withUnsafeBytes { bytes in
            output.withUnsafeMutableBytes { buffer, initializedCount in
                UnsafeMutableRawBufferPointer(rebasing: buffer[initializedCount...]).copyMemory(from: bytes)
                initializedCount += bytes.count
            }
        }
    }
}
