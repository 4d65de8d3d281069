import Foundation
import Testing
import TunnelSimulator

@Suite struct SimulationTests {
    @Test func seeds() async throws {
        let environment = ProcessInfo.processInfo.environment
        if let seed = environment["SEED"].flatMap({ UInt64($0) }) {
            let simulation = Simulation(seed: seed)
            simulation.world.isTraced = environment["SIMULATOR_TRACE"] != nil
            try simulation.run()
            print("\(simulation.world.steps) steps, \(simulation.world.bytesSealed) bytes sealed")
            return
        }
        let count = environment["SIMULATOR_SEEDS"].flatMap { UInt64($0) } ?? 10_000
        let failures = await withTaskGroup(of: [SimulationFailure].self) { group in
            for worker in 0..<UInt64(2) {
                group.addTask {
                    var failures: [SimulationFailure] = []
                    for seed in stride(from: worker, to: count, by: 2) where failures.count < 3 {
                        let t0 = Date()
                        let simulation = Simulation(seed: seed)
                        do throws(SimulationFailure) { try simulation.run() } catch { failures.append(error) }
                        let dt = Date().timeIntervalSince(t0)
                        if dt > 0.4 { print("SLOW \(seed) \(dt) steps \(simulation.world.steps) bytes \(simulation.world.bytesSealed) now \(simulation.world.now)") }
                    }
                    return failures
                }
            }
            return await group.reduce(into: []) { $0 += $1 }
        }
        for failure in failures { Issue.record("\(failure)") }
    }
}
