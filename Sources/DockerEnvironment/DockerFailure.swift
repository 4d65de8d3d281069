import Environments
import InterceptModel

/// Explains to people why a sidecar's container couldn't be made.
enum DockerFailure {
    static func isNameTaken(_ errors: String) -> Bool {
        errors.contains("is already in use by container") || errors.contains("name is reserved")
    }

    static func error(
        _ result: DockerClient.Result,
        _ container: SidecarContainer,
        _ service: String,
        _ client: DockerClient
    ) -> Problem {
        let small = result.errors.lowercased()
        if small.contains("no such image") || small.contains("unable to find image") {
            return Problem(.failed, Self.noImage(container.image))
        }
        let said = DockerClient.reason(result.errors)
        if small.contains("non running container") || small.contains("no such container")
            || small.contains("not running")
        {
            return Problem(
                .failed,
                "'\(service)' ended while its sidecar was made",
                "Check it, then try again: kl env status"
            )
        }
        if result.isLate {
            return Problem(
                .failed,
                "the sidecar of '\(service)' says nothing, and was removed: \(said)",
                "Look at the engine: kl doctor"
            )
        }
        // A sidecar of an earlier version takes a key alone, without rights.
        if result.code == 2, result.errors.contains("for '--peer") {
            return Problem(
                .failed,
                "the image '\(container.image)' holds a sidecar of an earlier version, which serves one workspace only",
                "Make it anew, in kl's source folder: \(Self.build(container.image))"
            )
        }
        // Exit code 125 comes from the client or the engine; any other is the sidecar's own.
        guard result.code == 125 || result.code == nil else {
            let last = said.hasPrefix("kl-sidecar: ") ? String(said.dropFirst("kl-sidecar: ".count)) : said
            let end = last.hasSuffix(".") ? "" : "."
            return Problem(.failed, "the sidecar of '\(service)' didn't start: \(last)\(end)")
        }
        return DockerClient.error(saying: result.errors, at: client.engine.name)
    }

    static func noImage(_ image: String) -> String {
        "the engine has no image '\(image.printable)', and none is pulled unasked. Make it, in kl's source folder:"
            + " \(Self.build(image))"
    }

    private static func build(_ image: String) -> String {
        image == SidecarContainer.defaultImage ? "agent/image" : "agent/image --tag \(image.printable.shellQuoted)"
    }
}
