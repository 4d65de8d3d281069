import HostSupport
import InterceptModel
import Libc
import Testing
import WorkspaceAPI

@testable import WorkspaceDaemon

@Suite struct WorkspaceHomeTests {
    @Test(arguments: [
        (["KL_HOME": "/h", "HOME": "/u"], "/h", "/h"),
        (["KL_HOME": "/h//", "HOME": "/u"], "/h", "/h"),
        (["KL_HOME": "", "HOME": "/u"], "/u/.config/kl", "/u/.local/state/kl"),
        (["HOME": "/u", "XDG_CONFIG_HOME": "/c", "XDG_STATE_HOME": "/s/"], "/c/kl", "/s/kl"),
        (["HOME": "/u", "XDG_CONFIG_HOME": "c", "XDG_STATE_HOME": ""], "/u/.config/kl", "/u/.local/state/kl"),
    ])
    func `where things are`(variables: [String: String], configuration: String, state: String) throws {
        let home = try WorkspaceHome(variables: variables)
        #expect(home.configuration == configuration)
        #expect(home.state == state)
        #expect(home.daemonSocket == "\(state)/daemon.sock")
        #expect(home.privateKey == "\(configuration)/private.key")
    }

    @Test func `a folder that others can enter is refused`() throws {
        let folder = try TemporaryFolder()
        #expect(chmod(folder.path, 0o755) == 0)
        let error = #expect(throws: Problem.self) { try WorkspaceHome(folder: folder.path).prepare() }
        #expect(
            error?.description
                == "'\(folder.path)' is open to other users (mode 0755). Close it with 'chmod 700'."
        )
    }

    @Test func `a file where the folder should be is refused`() throws {
        let folder = try TemporaryFolder()
        try SmallFile.replace("\(folder.path)/home", with: [])
        #expect(throws: Problem.self) { try WorkspaceHome(folder: "\(folder.path)/home").prepare() }
        #expect(throws: Problem.self) { try WorkspaceHome(folder: "\(folder.path)/home/in").prepare() }
    }

    @Test func `the folders are made, for this user alone`() throws {
        let folder = try TemporaryFolder()
        let home = WorkspaceHome(folder: "\(folder.path)/a b/c")
        try home.prepare()
        var status = stat()
        #expect(stat(home.state, &status) == 0)
        #expect(status.st_mode & 0o777 == 0o700)
    }

    @Test func `what only looks makes nothing`() throws {
        let folder = try TemporaryFolder()
        let home = WorkspaceHome(folder: "\(folder.path)/home")
        try home.check()
        #expect(try WorkspaceIdentity(ifAnyIn: home)?.member == nil)
        #expect(access(home.state, F_OK) != 0)
        let key = try WorkspaceIdentity(home: home).member
        #expect(try WorkspaceIdentity(ifAnyIn: home)?.member == key)
        #expect(chmod(home.state, 0o755) == 0)
        #expect(throws: Problem.self) { try home.check() }
    }

    @Test(.enabled(if: geteuid() == 0)) func `root makes no folders in another user's home`() throws {
        let folder = try TemporaryFolder()
        let home = try WorkspaceHome(variables: ["HOME": folder.path])
        try home.check()
        #expect(home.refusal(toMake: home.state) == nil)
        #expect(chown(folder.path, 12_345, 12_345) == 0)
        let error = #expect(throws: Problem.self) { try home.prepare() }
        #expect(error?.description.hasPrefix("'\(folder.path)' belongs to user 12345") == true)
        #expect(access("\(folder.path)/.config", F_OK) != 0)
        // Who names a folder means it.
        try WorkspaceHome(variables: ["KL_HOME": "\(folder.path)/kl"]).prepare()
    }

    @Test func `one key, whoever asks first`() throws {
        let folder = try TemporaryFolder()
        let home = WorkspaceHome(folder: "\(folder.path)/home")
        let first = try WorkspaceIdentity(home: home)
        let second = try WorkspaceIdentity(home: home)
        #expect(first.member == second.member)
        #expect(first.label.contains("@"))
        var status = stat()
        #expect(stat(home.privateKey, &status) == 0)
        #expect(status.st_mode & 0o777 == 0o600)
    }

    @Test func `many at once make one key`() async throws {
        let folder = try TemporaryFolder()
        let home = WorkspaceHome(folder: "\(folder.path)/home")
        let keys = try await withThrowingTaskGroup(of: String.self) { group in
            for _ in 0..<8 { group.addTask { try WorkspaceIdentity(home: home).member.publicKey } }
            return try await group.reduce(into: Set()) { $0.insert($1) }
        }
        #expect(keys.count == 1)
    }
}
