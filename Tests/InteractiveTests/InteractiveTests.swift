import Testing

@testable import Interactive
