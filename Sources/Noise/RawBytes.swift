/// How this module hands memory to C.
extension UnsafeRawBufferPointer {
    static var empty: UnsafeRawBufferPointer { UnsafeRawBufferPointer(start: nil, count: 0) }

    /// The address of the first byte. An empty buffer may have none, while C wants an address even for no bytes: it gets a
    /// valid one that it doesn't read.
    var start: UnsafePointer<UInt8> {
        assumingMemoryBound(to: UInt8.self).baseAddress ?? ("" as StaticString).utf8Start
    }
}

extension UnsafeMutableRawBufferPointer {
    /// The same; nothing is written to an empty buffer's address.
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
