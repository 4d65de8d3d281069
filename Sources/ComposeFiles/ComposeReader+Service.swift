import CommandText
import Environments
import InterceptModel

extension ComposeReader {
    private static let keys = [
        "command", "depends_on", "entrypoint", "env_file", "environment", "ports", "restart", "stop_grace_period",
        "working_dir",
    ]
    /// Keys that apply to containers only, not to processes of this machine.
    private static let containerKeys: Set<String> = [
        "annotations", "blkio_config", "build", "cap_add", "cap_drop", "cgroup", "cgroup_parent", "configs",
        "container_name",
        "cpu_count", "cpu_percent", "cpu_period", "cpu_quota", "cpu_rt_period", "cpu_rt_runtime", "cpu_shares", "cpus",
        "cpuset", "credential_spec", "deploy", "device_cgroup_rules", "devices", "dns", "dns_opt", "dns_search",
        "domainname", "expose", "external_links", "extra_hosts", "gpus", "group_add", "hostname", "image", "init",
        "ipc",
        "isolation", "label_file", "labels", "links", "logging", "mac_address", "mem_limit", "mem_reservation",
        "mem_swappiness",
        "memswap_limit", "models", "network_mode", "networks", "oom_kill_disable", "oom_score_adj", "pid", "pids_limit",
        "platform",
        "privileged", "pull_policy", "read_only", "runtime", "secrets", "security_opt", "shm_size", "stdin_open",
        "storage_opt", "sysctls", "tmpfs", "tty", "ulimits", "use_api_socket", "userns_mode", "uts", "volumes",
        "volumes_from",
    ]
    /// Keys that would make sense for a process, but aren't supported.
    private static let absentKeys: Set<String> = [
        "attach", "develop", "extends", "healthcheck", "post_start", "pre_start", "pre_stop", "profiles", "provider",
        "pull_refresh_after", "scale",
        "stop_signal", "user",
    ]

    /// - Parameter layers: the service's value in each file.
    mutating func service(_ entry: YAMLValue.Entry, _ layers: [YAMLValue.Entry]) throws(Fault) -> Draft {
        let name = entry.key
        var draft = Draft(
            service: ComposeService(name: name, command: [], workingDirectory: self.folder, line: entry.position.line),
            position: entry.position
        )
        var entrypoint: [String] = []
        var command: [String] = []
        var files = EnvironmentFiles()
        var own: [String: String?] = [:]
        var diversion = DiversionText()
        var hasImage = false
        var entries: [[YAMLValue.Entry]] = []
        for layer in layers where !layer.value.isNull {
            entries.append(try self.entries(layer.value, "service \(name.quoted)"))
        }
        for entry in Self.layered(entries) {
            // `key:` with nothing after it counts as absent.
            if entry.value.isNull, Self.keys.contains(entry.key) { continue }
            switch entry.key {
            case "entrypoint": entrypoint = try self.words(entry)
            case "command": command = try self.words(entry)
            case "working_dir":
                draft.service.workingDirectory = self.absolute(try self.text(entry.value, "'working_dir'"))
            case "ports": try self.ports(entry.value, of: name, into: &draft.ports)
            case "environment": try self.environment(entry.value, into: &own)
            case "env_file": try self.environmentFiles(entry.value, into: &files)
            case "depends_on": try self.dependencies(entry.value, into: &draft.dependsOn)
            case "stop_grace_period": draft.service.stopGraceSeconds = try self.gracePeriod(entry.value)
            case "restart": draft.service.restart = try self.restartPolicy(entry.value)
            case "x-kl": try self.diversion(entry, into: &diversion)
            case let key where key.hasPrefix("x-"): try self.checkExtension(entry)
            case let key where Self.containerKeys.contains(key):
                hasImage = hasImage || key == "image" || key == "build"
                self.warn(
                    entry.position,
                    "\(key.quoted) is ignored: a service of a local environment is a process of this machine"
                )
            case let key where Self.absentKeys.contains(key):
                self.warn(entry.position, "\(key.quoted) is ignored: it isn't in this version")
            default: self.warnOfUnknown(entry, of: "a service", known: Self.keys)
            }
        }
        draft.service.command = entrypoint + command
        guard let program = draft.service.command.first, !program.isEmpty else {
            throw self.commandMissing(draft, hasImage: hasImage)
        }
        draft.service.diversion = try diversion.diversion()
        draft.service.environment = try self.read(files, own: own).merging(own) { $1 }.compactMapValues { $0 }
        draft.service.ports = draft.ports.map(\.port)
        return draft
    }

    /// A compose file with images is usually one that Docker runs, so the message names that way, too.
    private func commandMissing(_ draft: Draft, hasImage: Bool) -> Fault {
        let service = "service \(draft.service.name.quoted)"
        let mend = "Write what is run, as in 'command: ./server --port 21090'"
        guard hasImage else { return Fault(draft.position, "\(service) has no command. \(mend).") }
        let project = self.interpolation.environment[Self.nameVariable] ?? "PROJECT"
        return Fault(
            draft.position,
            "\(service) has no command, and its image isn't used: it is a process of this machine. \(mend);"
                + " or connect to what Docker runs: kl env connect --docker \(project)"
        )
    }

    /// A string is split into words as a shell would; a list is taken as it is.
    private mutating func words(_ entry: YAMLValue.Entry) throws(Fault) -> [String] {
        if case .sequence(let elements) = entry.value.kind {
            var words: [String] = []
            for element in elements { words.append(try self.text(element, "an element of \(entry.key.quoted)")) }
            return words
        }
        let text = try self.text(entry.value, entry.key.quoted)
        do throws(ShellWords.Failure) {
            let split = try ShellWords(text)
            if let syntax = split.shellSyntax {
                self.warn(
                    entry.value.position,
                    "there is no shell: \(syntax.quoted) is an argument like the others."
                        + " For a shell write \(entry.key): [sh, -c, \"…\"]"
                )
            }
            return split.words
        } catch {
            switch error {
            case .unclosed(let quote):
                throw Fault(
                    entry.value.position,
                    "a quote (\(quote)) in \(entry.key.quoted) isn't closed. Close it, or write a list."
                )
            case .backslashAtEnd:
                throw Fault(
                    entry.value.position,
                    "\(entry.key.quoted) ends with a backslash. Leave it out, or write a list."
                )
            }
        }
    }

    private mutating func dependencies(_ value: YAMLValue, into result: inout [Dependency]) throws(Fault) {
        var indices: [String: Int] = [:]
        for (index, dependency) in result.enumerated() { indices[dependency.name] = index }
        func add(_ dependency: Dependency) {
            if let index = indices[dependency.name] {
                let before = result[index].isRequired
                result[index] = dependency
                result[index].isRequired = dependency.isRequired ?? before
            } else {
                indices[dependency.name] = result.count
                result.append(dependency)
            }
        }
        if case .sequence(let elements) = value.kind {
            for element in elements {
                let name = try self.text(element, "an element of 'depends_on'")
                add(Dependency(name: name, position: element.position, isRequired: true))
            }
            return
        }
        var isReset: Set<String> = []
        for entry in try self.entries(value, "'depends_on'") {
            if entry.isReset {
                isReset.insert(entry.key)
            } else {
                add(try self.dependency(entry))
            }
        }
        if !isReset.isEmpty { result.removeAll { isReset.contains($0.name) } }
    }

    private mutating func dependency(_ entry: YAMLValue.Entry) throws(Fault) -> Dependency {
        var dependency = Dependency(name: entry.key, position: entry.position)
        guard !entry.value.isNull else { return dependency }
        for option in try self.entries(entry.value, "a service in 'depends_on'") where !option.isReset {
            switch option.key {
            case "condition":
                let condition = try self.text(option.value, "'condition'")
                // Without containers there is only one condition to check: whether the service listens.
                guard condition == "service_started" || condition == "service_healthy" else {
                    throw Fault(
                        option.value.position,
                        "the condition \(condition.quoted) isn't in this version."
                            + " Write 'service_started': it means that the service listens."
                    )
                }
            case "required": dependency.isRequired = try self.boolean(option.value, "'required'")
            case "restart":
                if try self.boolean(option.value, "'restart'") {
                    self.warn(option.position, "'restart' is ignored: it isn't in this version")
                }
            default:
                self.warnOfUnknown(
                    option,
                    of: "a service in 'depends_on'",
                    known: ["condition", "required", "restart"]
                )
            }
        }
        return dependency
    }

    private mutating func gracePeriod(_ value: YAMLValue) throws(Fault) -> Double {
        let text = try self.text(value, "'stop_grace_period'")
        guard let seconds = ComposeDuration.seconds(text) else {
            throw Fault(
                value.position,
                "\(text.quoted) isn't a length of time. Write one with its unit, as in '10s' or '1m30s'."
            )
        }
        return seconds
    }

    private mutating func restartPolicy(_ value: YAMLValue) throws(Fault) -> ComposeService.RestartPolicy {
        let text = try self.text(value, "'restart'")
        if let policy = ComposeService.RestartPolicy(rawValue: text) { return policy }
        if text.hasPrefix("on-failure:"), let count = UInt16(text.dropFirst(11)) {
            self.warn(value.position, "the limit of \(count) restarts is ignored: it isn't in this version")
            return .onFailure
        }
        throw Fault(
            value.position,
            "\(text.quoted) isn't a restart policy. Write no, always, on-failure or unless-stopped."
        )
    }
}
