import HostSupport
import InterceptModel
import Libc

extension Problem {
    /// Says what the system refused, with advice that fits the reason.
    package init(_ error: HostError) {
        let mend =
            switch error.code {
            case ENOSPC, EDQUOT: "Make room on that disk, then try again."
            case EROFS: "Copy the compose file to a folder that can be written, and use it there."
            case EACCES, EPERM: "Get the right to write there, or copy the compose file to a folder of your own."
            case EMFILE, ENFILE: "End programs that hold many files, or raise the limit (ulimit -n)."
            case EFBIG: "Nothing of kl's is that large: look what it is, and move it away."
            case ENAMETOOLONG: "Move the compose file to a folder with a shorter path."
            case ENOTDIR, EISDIR, ELOOP, ENOTSUP: "Look what is there, and move it away."
            default: "Fix that, then try again."
            }
        self.init(.failed, error.description, mend)
    }
}

extension Error {
    /// As a sentence for people.
    package var problem: Problem {
        switch self {
        case let error as Problem: error
        case let error as HostError: Problem(error)
        default: Problem(.failed, "\(self)")
        }
    }
}
