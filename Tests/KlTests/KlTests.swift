import Testing

@testable import kl
