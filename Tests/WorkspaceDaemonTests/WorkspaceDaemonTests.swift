import Testing

@testable import WorkspaceDaemon
