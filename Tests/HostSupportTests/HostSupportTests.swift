import Testing

@testable import HostSupport
