import Environments
import HostSupport
import InterceptModel
import Libc
import TestSupport
import Testing

@testable import LocalEnvironment

struct StateFolderTests {
    let room: Room
    let file: String

    init() throws {
        self.room = try Room()
        self.file = self.room("compose.yaml")
    }

    @Test func ownersAlone() throws {
        #expect(try StateFolder.open(besideFile: self.file) == nil)
        let folder = try StateFolder.make(besideFile: self.file)
        #expect(folder.path == self.room(".kl") && !folder.isShared)
        #expect(try mode(of: folder.path) == 0o700)
        #expect(try mode(of: folder.logs) == 0o700)
        #expect(try StateFolder.open(besideFile: self.file) == folder)
        #expect(try StateFolder.make(besideFile: self.file) == folder)
        #expect(folder.log(ofService: "api") == self.room(".kl/logs/api.log"))
        #expect(folder.log(ofSidecar: "api-1") == self.room(".kl/logs/api-1.sidecar.log"))
    }

    @Test func groups() throws {
        chmod(self.room.path, 0o770)
        let folder = try StateFolder.make(besideFile: self.file)
        #expect(folder.isShared && folder.fileMode == 0o660)
        #expect(try mode(of: folder.path) == 0o2770)
        #expect(try mode(of: folder.logs) == 0o2770)
        let record = RecordFile(in: folder)
        #expect(try record.add(RecordFileTests.member(1)))
        #expect(try mode(of: folder.record) == 0o660)
        #expect(try mode(of: folder.lock) == 0o660)
        #expect(try StateFolder.open(besideFile: self.file) == folder)
    }

    @Test func becomesTheGroupsLater() throws {
        #expect(try !StateFolder.make(besideFile: self.file).isShared)
        chmod(self.room.path, 0o775)
        #expect(try StateFolder.make(besideFile: self.file).isShared)
        #expect(try mode(of: self.room(".kl")) == 0o2770)
    }

    /// As in /tmp: who may write there is no group.
    @Test func everybodys() throws {
        chmod(self.room.path, 0o1777)
        #expect(try !StateFolder.make(besideFile: self.file).isShared)
        #expect(try mode(of: self.room(".kl")) == 0o700)
    }

    @Test func refused() throws {
        let path = self.room(".kl")
        func refusal() -> String? {
            do throws(Problem) {
                _ = try StateFolder.make(besideFile: self.file)
            } catch {
                return (try? StateFolder.open(besideFile: self.file)) == nil ? error.description : "open takes it"
            }
            return nil
        }
        #expect(symlink("/tmp", path) == 0)
        #expect(refusal() == "\(path) is a symbolic link. Remove it: kl makes a folder there.")
        unlink(path)
        try self.room.file(".kl", "x")
        #expect(refusal() == "\(path) isn't a folder. Move it away: kl makes a folder there.")
        unlink(path)
        try SmallFile.makeFolder(path)
        chmod(path, 0o770)
        #expect(refusal() == "\(path) may be written by others. Look what is in it, then: chmod 700 '\(path)'")
        chmod(self.room.path, 0o775)
        chmod(path, 0o777)
        #expect(refusal() == "\(path) may be written by everybody. Look what is in it, then: chmod 2770 '\(path)'")
        chmod(self.room.path, 0o755)
        chmod(path, 0o700)
        guard chown(path, 12_345, 12_345) == 0 else { return }
        #expect(
            refusal()
                == "\(path) belongs to user 12345, and you are user \(geteuid())."
                + " Share the folder above with a group of yours both (chmod g+w), or copy the compose file to one of your own."
        )
        chmod(self.room.path, 0o775)
        #expect(refusal()?.hasPrefix("\(path) belongs to user 12345 and not to the group ") == true)
        _ = chown(path, 12_345, getegid())
        #expect(refusal() == nil)
    }

    /// Somebody else's group: its members could name this user's processes.
    @Test(.enabled(if: geteuid() == 0)) func anothersGroup() throws {
        let folder = try StateFolder.make(besideFile: self.file)
        #expect(chown(self.room.path, 12_345, 12_345) == 0 && chmod(self.room.path, 0o775) == 0)
        #expect(chown(folder.path, 12_345, 12_345) == 0 && chmod(folder.path, 0o2770) == 0)
        let refusal = Problem(
            .failed,
            "\(self.room.path) may be written by the group 12345, and you aren't in it:"
                + " what they write there could name your processes to end",
            "Copy the compose file to a folder of your own."
        )
        #expect(throws: refusal) { try StateFolder.open(besideFile: self.file) }
        #expect(throws: refusal) { try StateFolder.make(besideFile: self.file) }
    }

    @Test func logsElsewhere() throws {
        let folder = try StateFolder.make(besideFile: self.file)
        rmdir(folder.logs)
        #expect(symlink("/tmp", folder.logs) == 0)
        #expect(
            throws: Problem(
                .failed,
                "\(folder.logs) isn't a folder",
                "Move it away: kl makes a folder there."
            )
        ) { try StateFolder.make(besideFile: self.file) }
    }

    /// One that nobody named, above the folder in which somebody works.
    @Test(.enabled(if: geteuid() == 0)) func anothersFile() throws {
        let path = try self.room.file("compose.yaml", "services: {a: {command: x}}")
        func found(_ known: [EnvironmentReference] = []) -> FoundEnvironment? {
            LocalDiscovery.find(from: self.room.path, known: known).first
        }
        #expect(found()?.state == .down)
        #expect(chown(path, 12_345, 12_345) == 0)
        #expect(found()?.state == .broken)
        #expect(
            found()?.reason == "\(path) belongs to user 12345, and its commands would run as you. If you trust them,"
                + " name it: --file \(path)"
        )
        #expect(found([.init(kind: .local, name: "a", location: path)])?.state == .down)
        // Shared: root owns the folder.
        chmod(self.room.path, 0o775)
        #expect(found()?.state == .down)
        chmod(self.room.path, 0o755)
        // A link of theirs to a file of this user's: what is relative in that is meant from where the link stands.
        let own = try self.room.file("own/compose.yaml", "services: {a: {command: x}}")
        unlink(path)
        #expect(symlink(own, path) == 0)
        #expect(found()?.state == .down)
        #expect(lchown(path, 12_345, 12_345) == 0)
        #expect(found()?.state == .broken)
    }

    @Test func noFolder() throws {
        #expect(
            throws: Problem(
                .failed,
                "\(self.room("none")) can't be read: no such file or directory",
                "Fix that, then try again."
            )
        ) { try StateFolder.make(besideFile: self.room("none/compose.yaml")) }
    }

    @Test(arguments: [
        (ENOSPC, "/x/.kl can't be written: no space left on device. Make room on that disk, then try again."),
        (
            EROFS,
            "/x/.kl can't be written: read-only file system. Copy the compose file to a folder that can be written, and use it there."
        ),
        (
            EACCES,
            "/x/.kl can't be written: permission denied. Get the right to write there, or copy the compose file to a folder of your own."
        ),
    ])
    func mends(code: CInt, text: String) {
        #expect(Problem(HostError("/x/.kl can't be written", code: code)).description == text)
    }
}
