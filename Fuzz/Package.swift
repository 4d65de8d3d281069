// swift-tools-version: 6.2

import PackageDescription

/// What is fed with libFuzzer's bytes: a package of its own, since it is compiled with the sanitizers and with all that it
/// uses. `Fuzz/run` builds and runs it.
let package = Package(
    name: "kl-fuzz",
    platforms: [.macOS(.v15)],
    dependencies: [
        // Named, because the folder may be called anything.
        .package(name: "kl", path: ".."),
        .package(url: "https://github.com/apple/swift-nio", exact: "2.101.2"),
    ],
    targets: [
        .target(name: "CLibFuzzer"),
        .executableTarget(
            name: "TunnelFuzz",
            dependencies: [
                "CLibFuzzer",
                .product(name: "TunnelInternals", package: "kl"),
                .product(name: "NIOCore", package: "swift-nio"),
            ],
            swiftSettings: [.enableUpcomingFeature("ExistentialAny"), .treatAllWarnings(as: .error)]
        ),
    ]
)
