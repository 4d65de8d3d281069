// swift-tools-version: 6.2

import PackageDescription

/// Every target is held to the same rules: Swift 6 language mode (the tools version's default, and with it
/// strict concurrency), `any` spelled out, and no warning left standing.
let strict: [SwiftSetting] = [
    .enableUpcomingFeature("ExistentialAny"),
    .treatAllWarnings(as: .error),
]

let nioCore = Target.Dependency.product(name: "NIOCore", package: "swift-nio")
let nioHTTP1 = Target.Dependency.product(name: "NIOHTTP1", package: "swift-nio")
let nioWebSocket = Target.Dependency.product(name: "NIOWebSocket", package: "swift-nio")
let nioPosix = Target.Dependency.product(name: "NIOPosix", package: "swift-nio")
let logging = Target.Dependency.product(name: "Logging", package: "swift-log")
let yams = Target.Dependency.product(name: "Yams", package: "Yams")
let argumentParser = Target.Dependency.product(name: "ArgumentParser", package: "swift-argument-parser")

let package = Package(
    name: "kl",
    // For Synchronization; Linux has no such floor.
    platforms: [.macOS(.v15)],
    products: [
        // For the package in Fuzz/ alone. Programs are products by themselves.
        .library(name: "TunnelInternals", targets: ["InterceptProtocol", "Noise", "Tunnel", "TunnelSimulator"])
    ],
    dependencies: [
        // Exact, because Package.resolved stays out of the repository.
        .package(url: "https://github.com/apple/swift-nio", exact: "2.101.2"),
        .package(url: "https://github.com/apple/swift-log", exact: "1.16.2"),
        .package(url: "https://github.com/apple/swift-argument-parser", exact: "1.8.2"),
        .package(url: "https://github.com/jpsim/Yams", exact: "6.2.2"),
        // What swift-nio needs, which would be the newest of the day otherwise; no target here names them.
        .package(url: "https://github.com/apple/swift-atomics", exact: "1.3.0"),
        .package(url: "https://github.com/apple/swift-collections", exact: "1.6.0"),
        .package(url: "https://github.com/apple/swift-system", exact: "1.8.1"),
    ],
    targets: [
        .systemLibrary(name: "CSodium", pkgConfig: "libsodium", providers: [.apt(["libsodium-dev"])]),
        .target(name: "CNetlink"),
        .target(name: "CDatagrams"),
        .target(name: "CMemory"),
        .target(name: "Libc", swiftSettings: strict),
        .target(name: "Noise", dependencies: ["CSodium"], swiftSettings: strict),
        .target(name: "KeyFiles", dependencies: ["CommandText", "Libc", "Noise"], swiftSettings: strict),
        .target(name: "Tunnel", dependencies: ["Noise", nioCore], swiftSettings: strict),
        .target(
            name: "Carriers",
            dependencies: ["CDatagrams", "CNetlink", "HostSupport", "Libc", "Noise", "Tunnel", nioCore, nioPosix],
            swiftSettings: strict
        ),
        .target(name: "InterceptModel", dependencies: ["Libc"], swiftSettings: strict),
        .target(name: "CommandText", dependencies: ["InterceptModel"], swiftSettings: strict),
        .target(name: "InterceptProtocol", dependencies: ["InterceptModel", logging, nioCore], swiftSettings: strict),
        .target(
            name: "Diversion",
            dependencies: ["CNetlink", "InterceptModel", "Libc", logging, nioCore, nioPosix],
            swiftSettings: strict
        ),
        .target(
            name: "SidecarAgent",
            dependencies: [
                "Carriers", "CommandText", "Diversion", "InterceptModel", "InterceptProtocol", "Noise", "Tunnel",
                logging, nioCore, nioPosix,
            ],
            swiftSettings: strict
        ),
        .target(
            name: "WorkspaceAgent",
            dependencies: [
                "Carriers", "InterceptModel", "InterceptProtocol", "Noise", "Tunnel", logging, nioCore, nioPosix,
            ],
            swiftSettings: strict
        ),
        .target(
            name: "ProgramSupport",
            dependencies: [
                "CommandText", "HostSupport", "InterceptModel", "InterceptProtocol", "KeyFiles", "Libc", "Noise",
                argumentParser, logging, nioCore, nioHTTP1, nioPosix,
            ],
            swiftSettings: strict
        ),
        .target(name: "CSpawn"),
        .target(
            name: "HostSupport",
            dependencies: ["CMemory", "CSpawn", "InterceptModel", "Libc", logging, nioCore, nioPosix],
            swiftSettings: strict
        ),
        .target(
            name: "SidecarInterface",
            dependencies: ["CommandText", "HostSupport", "InterceptModel", "Libc", "Noise"],
            swiftSettings: strict
        ),
        .target(
            name: "Environments",
            dependencies: ["HostSupport", "InterceptModel", "Libc"],
            swiftSettings: strict
        ),
        .target(
            name: "ComposeFiles",
            dependencies: ["CommandText", "Environments", "HostSupport", "InterceptModel", "Libc", yams],
            swiftSettings: strict
        ),
        .target(
            name: "LocalEnvironment",
            dependencies: [
                "CommandText", "ComposeFiles", "Environments", "HostSupport", "InterceptModel", "KeyFiles", "Libc",
                "Noise",
                "SidecarInterface", logging, nioCore, nioPosix,
            ],
            swiftSettings: strict
        ),
        .target(
            name: "DockerEnvironment",
            dependencies: [
                "CommandText", "Environments", "HostSupport", "InterceptModel", "Libc", "Noise", "SidecarInterface",
                nioCore, nioPosix,
            ],
            swiftSettings: strict
        ),
        .target(
            name: "KubernetesEnvironment",
            dependencies: [
                "CommandText", "Environments", "HostSupport", "InterceptModel", "Libc", "Noise", "SidecarInterface",
                nioCore, nioHTTP1, nioPosix, nioWebSocket,
            ],
            swiftSettings: strict
        ),
        .target(
            name: "EnvironmentCatalog",
            dependencies: ["DockerEnvironment", "Environments", "KubernetesEnvironment", "LocalEnvironment"],
            swiftSettings: strict
        ),
        .target(
            name: "WorkspaceAPI",
            dependencies: [
                "CommandText", "Environments", "HostSupport", "InterceptModel", "KeyFiles", "Libc", "Noise",
            ],
            swiftSettings: strict
        ),
        .target(
            name: "WorkspaceDaemon",
            dependencies: [
                "Carriers", "CommandText", "Environments", "HostSupport", "InterceptModel", "InterceptProtocol", "Libc",
                "Noise", "Tunnel", "WorkspaceAPI", "WorkspaceAgent", logging, nioCore, nioPosix,
            ],
            swiftSettings: strict
        ),
        .target(name: "Interactive", dependencies: ["Libc"], swiftSettings: strict),
        .executableTarget(
            name: "kl",
            dependencies: [
                "CommandText", "ComposeFiles", "DockerEnvironment", "EnvironmentCatalog", "Environments", "HostSupport",
                "Interactive", "InterceptModel", "InterceptProtocol", "KeyFiles", "KubernetesEnvironment", "Libc",
                "LocalEnvironment", "Noise", "ProgramSupport", "WorkspaceAPI", "WorkspaceDaemon", argumentParser,
                logging, nioCore, yams,
            ],
            swiftSettings: strict
        ),
        .executableTarget(
            name: "kl-sidecar",
            dependencies: [
                "CSpawn", "Carriers", "CommandText", "Diversion", "HostSupport", "InterceptModel", "InterceptProtocol",
                "KeyFiles", "Libc", "Noise", "ProgramSupport", "SidecarAgent", "SidecarInterface", "Tunnel",
                argumentParser, logging, nioCore, nioPosix,
            ],
            swiftSettings: strict
        ),
        .executableTarget(
            name: "kl-workspace",
            dependencies: [
                "Carriers", "CommandText", "HostSupport", "InterceptModel", "InterceptProtocol", "Noise",
                "ProgramSupport", "Tunnel", "WorkspaceAgent", argumentParser, logging, nioCore, nioPosix,
            ],
            swiftSettings: strict
        ),
        .target(
            name: "TunnelSimulator",
            dependencies: ["Noise", "Tunnel", nioCore],
            path: "Tests/TunnelSimulator",
            swiftSettings: strict
        ),
        .target(
            name: "TestSupport",
            dependencies: ["HostSupport", "Libc"],
            path: "Tests/TestSupport",
            swiftSettings: strict
        ),
        .target(name: "GoldenFiles", path: "Tests/GoldenFiles", swiftSettings: strict),
        // Not installed: the end-to-end tests run it in a terminal.
        .executableTarget(
            name: "picker-trial",
            dependencies: ["Interactive", "Libc"],
            path: "Tests/picker-trial",
            swiftSettings: strict
        ),
        // Test support, as TunnelSimulator.
        .target(name: "RawSockets", dependencies: ["Libc"], path: "Tests/RawSockets", swiftSettings: strict),
        .testTarget(name: "NoiseTests", dependencies: ["Noise"], swiftSettings: strict),
        .testTarget(
            name: "KeyFilesTests",
            dependencies: ["CommandText", "InterceptModel", "KeyFiles", "Libc", "Noise"],
            swiftSettings: strict
        ),
        .testTarget(
            name: "TunnelTests",
            dependencies: ["Noise", "Tunnel", "TunnelSimulator", nioCore],
            swiftSettings: strict
        ),
        .testTarget(name: "InterceptModelTests", dependencies: ["InterceptModel"], swiftSettings: strict),
        .testTarget(name: "CommandTextTests", dependencies: ["CommandText", "InterceptModel"], swiftSettings: strict),
        .testTarget(
            name: "InterceptProtocolTests",
            dependencies: ["GoldenFiles", "InterceptModel", "InterceptProtocol", logging, nioCore],
            exclude: ["Golden"],
            swiftSettings: strict
        ),
        .testTarget(
            name: "CarriersTests",
            dependencies: [
                "Carriers", "HostSupport", "Libc", "Noise", "RawSockets", "Tunnel", nioCore, nioPosix,
                .product(name: "NIOEmbedded", package: "swift-nio"),
            ],
            swiftSettings: strict
        ),
        .testTarget(
            name: "DiversionTests",
            dependencies: [
                "CNetlink", "Diversion", "InterceptModel", "Libc", nioCore,
                .product(name: "NIOEmbedded", package: "swift-nio"),
            ],
            swiftSettings: strict
        ),
        .testTarget(
            name: "HostSupportTests",
            dependencies: ["HostSupport", "InterceptModel", "Libc", nioCore, nioPosix, logging],
            swiftSettings: strict
        ),
        .testTarget(
            name: "SidecarInterfaceTests",
            dependencies: [
                "CommandText", "HostSupport", "InterceptModel", "SidecarInterface", "kl-sidecar", nioCore,
            ],
            swiftSettings: strict
        ),
        .testTarget(
            name: "EnvironmentsTests",
            dependencies: ["CommandText", "Environments", "InterceptProtocol"],
            swiftSettings: strict
        ),
        .testTarget(
            name: "ComposeFilesTests",
            dependencies: ["ComposeFiles", "Environments", "InterceptModel", "Libc", "TestSupport"],
            swiftSettings: strict
        ),
        .testTarget(
            name: "LocalEnvironmentTests",
            dependencies: [
                "CommandText", "ComposeFiles", "Environments", "HostSupport", "InterceptModel", "Libc",
                "LocalEnvironment",
                "Noise", "SidecarInterface", "TestSupport", nioCore, nioPosix,
            ],
            swiftSettings: strict
        ),
        .testTarget(
            name: "DockerEnvironmentTests",
            dependencies: [
                "CommandText", "DockerEnvironment", "Environments", "HostSupport", "InterceptModel", "Libc", "Noise",
                "SidecarInterface",
            ],
            swiftSettings: strict
        ),
        .testTarget(
            name: "KubernetesEnvironmentTests",
            dependencies: [
                "Environments", "HostSupport", "InterceptModel", "KubernetesEnvironment", "Libc",
                "SidecarInterface", nioCore, .product(name: "NIOEmbedded", package: "swift-nio"), nioHTTP1, nioPosix,
                nioWebSocket,
            ],
            swiftSettings: strict
        ),
        .testTarget(
            name: "EnvironmentCatalogTests",
            dependencies: [
                "DockerEnvironment", "Environments", "GoldenFiles", "HostSupport", "InterceptModel", "LocalEnvironment",
                "SidecarInterface", "TestSupport",
            ],
            exclude: ["Golden"],
            swiftSettings: strict
        ),
        .testTarget(
            name: "WorkspaceAgentTests",
            dependencies: [
                "Carriers", "CommandText", "HostSupport", "InterceptModel", "InterceptProtocol", "Noise", "RawSockets",
                "Tunnel", "WorkspaceAgent", logging, nioCore, nioPosix,
                .product(name: "NIOEmbedded", package: "swift-nio"),
            ],
            swiftSettings: strict
        ),
        .testTarget(
            name: "SidecarAgentTests",
            dependencies: [
                "Carriers", "CommandText", "InterceptModel", "InterceptProtocol", "Noise", "RawSockets",
                "SidecarAgent", "Tunnel", logging, nioCore, nioPosix,
                .product(name: "NIOEmbedded", package: "swift-nio"),
            ],
            swiftSettings: strict
        ),
        .testTarget(
            name: "WorkspaceDaemonTests",
            dependencies: [
                "Carriers", "CommandText", "Environments", "GoldenFiles", "HostSupport", "InterceptModel",
                "InterceptProtocol", "Libc", "Noise", "SidecarAgent", "WorkspaceAPI", "WorkspaceAgent",
                "WorkspaceDaemon", logging, nioCore, nioPosix,
            ],
            exclude: ["Golden"],
            swiftSettings: strict
        ),
        .testTarget(
            name: "InteractiveTests",
            dependencies: ["Interactive", "Libc", "picker-trial"],
            exclude: ["Screens"],
            swiftSettings: strict
        ),
        .testTarget(
            name: "KlTests",
            dependencies: [
                "Environments", "GoldenFiles", "HostSupport", "InterceptModel", "InterceptProtocol",
                "KubernetesEnvironment", "Libc",
                "WorkspaceAPI", "kl",
            ],
            exclude: ["Golden"],
            swiftSettings: strict
        ),
        .testTarget(
            name: "ProgramSupportTests",
            dependencies: [
                "CommandText", "HostSupport", "InterceptModel", "InterceptProtocol", "Libc", "ProgramSupport",
                argumentParser, nioCore, nioPosix,
            ],
            swiftSettings: strict
        ),
    ]
)
