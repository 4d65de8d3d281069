import Libc

/// Runs a program with limits on its time and output. Whatever it has started by then is ended with it.
public struct BoundedCommand {
    public struct Result: Equatable, Sendable {
        /// nil if the program was ended for taking too long, or ended by a signal.
        public var code: Int32?
        /// Standard output; also standard error, unless that is kept apart.
        public var output: String
        public var errors: String
        public var isLate: Bool
        /// The output exceeded the limit.
        public var isTooLong: Bool
        /// The program was ended once the awaited output was there.
        public var isEnough: Bool

        public init(
            code: Int32?,
            output: String,
            errors: String = "",
            isLate: Bool = false,
            isTooLong: Bool = false,
            isEnough: Bool = false
        ) {
            self.code = code
            self.output = output
            self.errors = errors
            self.isLate = isLate
            self.isTooLong = isTooLong
            self.isEnough = isEnough
        }
    }

    public static let outputAtMost = 65_536
    /// For standard error, if it is kept apart: only its end is kept.
    private static let errorsAtMost = 16_384

    /// Standard output and error together, in the order they came.
    /// - Parameter milliseconds: after this time the program is ended.
    /// - Returns: nil if the program can't be started.
    public static func run(_ program: String, _ arguments: [String], within milliseconds: Int64) -> Result? {
        Self.run(program, arguments, within: milliseconds, outputAtMost: Self.outputAtMost, keepsApart: false)
    }

    /// Keeps standard output apart from standard error.
    /// - Parameter isEnough: called with standard output each time that some has arrived; once it returns true, the program
    ///   is ended.
    public static func run(
        _ program: String,
        _ arguments: [String],
        environment: [String: String] = Spawn.ownEnvironment,
        within milliseconds: Int64,
        outputAtMost: Int,
        until isEnough: ((String) -> Bool)? = nil
    ) -> Result? {
        Self.run(
            program,
            arguments,
            environment: environment,
            within: milliseconds,
            outputAtMost: outputAtMost,
            keepsApart: true,
            until: isEnough
        )
    }

    private static func run(
        _ program: String,
        _ arguments: [String],
        environment: [String: String] = Spawn.ownEnvironment,
        within milliseconds: Int64,
        outputAtMost: Int,
        keepsApart: Bool,
        until isEnough: ((String) -> Bool)? = nil
    ) -> Result? {
        guard let output = try? Pipe() else { return nil }
        defer { close(output.reader) }
        let errors = keepsApart ? try? Pipe() : nil
        defer { if let errors { close(errors.reader) } }
        var spawn = Spawn(program, arguments, environment: environment)
        spawn.descriptors = [nil, output.writer, errors?.writer ?? output.writer]
        let started = try? spawn.start()
        close(output.writer)
        if let errors { close(errors.writer) }
        guard let pid = started else { return nil }
        ProcessGroups.add(pid)
        var reading = Reading(
            output: output,
            errors: errors,
            outputAtMost: outputAtMost,
            errorsAtMost: Self.errorsAtMost
        )
        let until = Steady.milliseconds + milliseconds
        var end: ProcessEnd?
        var isDone = false
        while !reading.isOver, !isDone {
            if end == nil { end = ProcessGroups.reap(pid) }
            let left = until - Steady.milliseconds
            // Processes that the program left behind may hold the pipe open forever.
            let count = reading.next(within: end != nil ? 0 : CInt(max(0, min(10, left))))
            if count > 0, let isEnough, isEnough(reading.outputText) { isDone = true }
            if count == 0, end != nil || left <= 0 { break }
            if left <= 0 { break }
        }
        while end == nil, !isDone, !reading.isTooLong, Steady.milliseconds < until {
            end = ProcessGroups.reap(pid)
            if end == nil { usleep(1_000) }
        }
        var result = Result(code: nil, output: reading.outputText, errors: reading.errorsText)
        result.isTooLong = reading.isTooLong
        result.isEnough = isDone
        result.isLate = end == nil && !isDone && !reading.isTooLong
        while end == nil {
            ProcessGroups.send(SIGKILL, to: pid)
            usleep(1_000)
            end = ProcessGroups.reap(pid)
            if end != nil { return result }
        }
        if case .exited(let code)? = end, !result.isTooLong { result.code = code }
        return result
    }
}

/// Reads a program's two outputs.
private struct Reading {
    private let pipes: [(descriptor: CInt, isOutput: Bool)]
    private var isOpen: [Bool]
    private var output: [UInt8] = []
    private var errors: [UInt8] = []
    private let outputAtMost: Int
    private let errorsAtMost: Int
    private(set) var isTooLong = false

    init(output: Pipe, errors: Pipe?, outputAtMost: Int, errorsAtMost: Int) {
        self.pipes = [(output.reader, true)] + (errors.map { [($0.reader, false)] } ?? [])
        self.isOpen = self.pipes.map { _ in true }
        self.outputAtMost = outputAtMost
        self.errorsAtMost = errorsAtMost
    }

    var isOver: Bool { self.isTooLong || !self.isOpen.contains(true) }
    var outputText: String { String(decoding: self.output, as: UTF8.self) }
    var errorsText: String { String(decoding: self.errors, as: UTF8.self) }

    /// - Returns: how many of the pipes had something to read, including their end.
    mutating func next(within milliseconds: CInt) -> Int {
        var waits = self.pipes.enumerated().map { index, pipe in
            pollfd(fd: self.isOpen[index] ? pipe.descriptor : -1, events: Int16(POLLIN), revents: 0)
        }
        guard poll(&waits, nfds_t(waits.count), milliseconds) > 0 else { return 0 }
        var count = 0
        for (index, pipe) in self.pipes.enumerated() where waits[index].revents != 0 {
            count += 1
            self.read(index, pipe.descriptor, isOutput: pipe.isOutput)
        }
        return count
    }

    private mutating func read(_ index: Int, _ descriptor: CInt, isOutput: Bool) {
        var piece = [UInt8](repeating: 0, count: 65_536)
        let count = systemRead(descriptor, &piece, piece.count)
        if count < 0, errno == EINTR { return }
        guard count > 0 else {
            self.isOpen[index] = false
            return
        }
        guard isOutput else {
            self.errors += piece[..<count]
            if self.errors.count > self.errorsAtMost {
                self.errors.removeFirst(self.errors.count - self.errorsAtMost)
            }
            return
        }
        self.output += piece[..<min(count, self.outputAtMost - self.output.count)]
        if self.output.count >= self.outputAtMost { self.isTooLong = true }
    }
}
