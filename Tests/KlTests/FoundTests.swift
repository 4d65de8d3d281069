import Environments
import InterceptModel
import Testing

@testable import kl

struct FoundTests {
    private static func one(
        _ kind: EnvironmentReference.Kind,
        _ state: FoundEnvironment.State,
        at location: String,
        isGone: Bool = false
    ) -> FoundEnvironment {
        FoundEnvironment(
            EnvironmentReference(kind: kind, name: "shop", location: location),
            state,
            isGone: isGone
        )
    }

    /// A project that Docker runs, seen from the folder with its compose file, which is of images.
    @Test func aFileThatCannotBeUsedIsNotMeant() throws {
        let found = Found([
            Self.one(.local, .broken, at: "/shop/compose.yaml"), Self.one(.docker, .up, at: "shop@here"),
        ])
        #expect(try found.named("shop").reference.location == "shop@here")
    }

    @Test func whatIsUpIsMeantBeforeWhatIsDown() throws {
        let down = Self.one(.docker, .down, at: "shop@gone")
        let found = Found([Self.one(.local, .up, at: "/shop/compose.yaml"), down])
        #expect(try found.named("shop").reference.location == "/shop/compose.yaml")
        // A file that has gone since, beside the project that is there.
        #expect(
            try Found([Self.one(.local, .broken, at: "/gone"), down]).named("shop").reference.location == "shop@gone"
        )
    }

    @Test func oneThatIsBrokenIsNamedAllTheSame() throws {
        #expect(try Found([Self.one(.local, .broken, at: "/a")]).named("shop").state == .broken)
    }

    /// A mistake in this folder's file is told, though a project that was removed had the same name.
    @Test func whatIsGoneIsMeantLast() throws {
        let gone = Self.one(.local, .broken, at: "/removed", isGone: true)
        #expect(try Found([gone, Self.one(.local, .broken, at: "/here")]).named("shop").reference.location == "/here")
        #expect(try Found([gone]).named("shop").isGone)
    }

    @Test(arguments: [FoundEnvironment.State.up, .down, .broken])
    func severalOfOneState(state: FoundEnvironment.State) {
        let found = Found([Self.one(.local, state, at: "/a"), Self.one(.docker, state, at: "b")])
        let error = #expect(throws: Problem.self) { try found.named("shop") }
        #expect(error.map { "\($0)" }?.contains("several environments are named 'shop'") == true)
    }
}
