import CLibFuzzer
import NIOCore

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#else
import Darwin
#endif

/// `TunnelFuzz --seeds FOLDER` writes the seeds; with anything else it is libFuzzer's program.
@main
enum TunnelFuzz {
    static func main() {
        let arguments = CommandLine.arguments
        if arguments.count == 3, arguments[1] == "--seeds" { return self.writeSeeds(to: arguments[2]) }
        var count = CommandLine.argc
        var words: UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>? = CommandLine.unsafeArgv
        exit(LLVMFuzzerRunDriver(&count, &words) { data, size in TunnelFuzz.run(data, size) })
    }

    private static func run(_ data: UnsafePointer<UInt8>?, _ size: Int) -> CInt {
        var input = Input(UnsafeBufferPointer(start: data, count: size))
        guard let setting = input.byte().map(Setting.init(rawValue:)) else { return -1 }
        if setting.contains(.decoders) {
            Decoders.run(&input)
            return 0
        }
        let ends = Ends(setting)
        var steps = 0
        while steps < 64, let which = input.byte(), let piece = input.piece() {
            steps += 1
            let operation = Operation.allCases[Int(which) % Operation.allCases.count]
            ends.perform(operation, piece)
        }
        return 0
    }

    private static func writeSeeds(to folder: String) {
        for (number, seed) in Seeds.all.enumerated() {
            guard let file = fopen("\(folder)/seed-\(number)", "w") else {
                print("\(folder)/seed-\(number) can't be written. Make the folder first.")
                exit(1)
            }
            fwrite(seed, 1, seed.count, file)
            fclose(file)
        }
    }
}
