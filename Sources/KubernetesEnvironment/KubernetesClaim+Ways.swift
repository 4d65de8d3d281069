import CommandText
import Environments
import InterceptModel
import NIOPosix
import SidecarInterface

/// Ways to sidecars by Services of our own, for machines that don't reach the pods' addresses.
extension KubernetesClaim {
    /// † A cloud makes a load balancer in a minute or two.
    static let balancerWithin = Duration.seconds(180)
    /// † A node knows a new Service after a second.
    private static let knownWithin = Duration.seconds(5)
    private static let looksEvery = Duration.milliseconds(500)

    var way: KubernetesPlace.Way { self.environment.place.way ?? .podAddress }

    private func tunnelService(_ sidecar: PodSidecar, _ pod: Pod) -> TunnelService {
        TunnelService(pod: pod, container: sidecar.name, way: self.way, workspace: self.record.holder)
    }

    /// Makes the pod's Service, and waits until it has an address.
    func expose(_ sidecar: PodSidecar, _ words: SidecarWords, _ pod: Pod) async throws -> SidecarKeeper.Outcome {
        let ours = self.tunnelService(sidecar, pod)
        do {
            if !ours.podLabel.isThere {
                let path = self.client.path("pods/\(pod.name)")
                let _: Pod = try await self.client.patch(path, [], .merge, ours.podPatch)
            }
            var service = try await self.make(ours, words)
            let node = self.way == .nodePort ? await self.nodeAddress(of: pod) : nil
            let limit = ContinuousClock.now + Self.balancerWithin
            while true {
                if let place = ours.place(service, node: node) {
                    await Self.wait(for: place)
                    return .exposed(place)
                }
                guard self.way == .loadBalancer, ContinuousClock.now < limit else { return self.noPlace(ours) }
                try await Task.sleep(for: Self.looksEvery)
                service = try await self.client.get(self.client.path("services/\(ours.name)"))
            }
        } catch let error as APIFailure where error.code == 403 {
            let problem = error.problem(self.client.words)
            return .failed(Problem(problem.code, problem.what, Self.askForTheRight))
        }
    }

    /// Until a connection comes through, or for some seconds: datagrams that come before the nodes know the Service would be
    /// remembered by their kernels as leading nowhere, and so would those that follow from the same port.
    private static func wait(for place: TunnelService.Place) async {
        guard let endpoint = try? Flags.endpoint(place.tcp) else { return }
        let limit = ContinuousClock.now + Self.knownWithin
        while ContinuousClock.now < limit, !Task.isCancelled {
            let attempt = ClientBootstrap(group: MultiThreadedEventLoopGroup.singleton)
                .connectTimeout(.seconds(1))
                .connect(host: endpoint.host, port: Int(endpoint.port))
            if let channel = try? await attempt.get() {
                try? await channel.close()
                return
            }
            try? await Task.sleep(for: .milliseconds(100))
        }
    }

    static let askForTheRight =
        "Ask who runs the cluster for that right: agent/kubernetes/role-node-port.yaml has those that --way needs."

    private func make(_ ours: TunnelService, _ words: SidecarWords) async throws -> ServiceObject {
        do {
            return try await self.client.post(
                self.client.path("services"),
                ours.object(tcp: words.port, udp: words.datagramPort)
            )
        } catch let error as APIFailure where error.code == 409 {
            // Made by an earlier daemon of this workspace.
            return try await self.client.get(self.client.path("services/\(ours.name)"))
        }
    }

    /// What the user named; the address that the node says it has outside; or the one that its pods know.
    private func nodeAddress(of pod: Pod) async -> String? {
        if let named = self.environment.place.nodeAddress { return named }
        if let name = pod.spec?.nodeName, KubernetesPlace.isSoundName(name) {
            let node: NodeObject? = try? await self.client.get("/api/v1/nodes/\(name)")
            let outside = node?.status?.addresses?.first { $0.type == "ExternalIP" }?.address
            if let outside, !outside.isEmpty { return outside }
        }
        return ([pod.status?.hostIP] + (pod.status?.hostIPs ?? []).map(\.ip)).compactMap(\.self).first { !$0.isEmpty }
    }

    private func noPlace(_ ours: TunnelService) -> SidecarKeeper.Outcome {
        let name = ours.name.shellQuoted
        guard self.way == .loadBalancer else {
            return .failed(
                Problem(
                    .failed,
                    "Service '\(ours.name)', which leads to the sidecar of pod \(ours.pod.name.printable), has no node's port or address",
                    "Name a node's address by kl env connect --node-address, and look: kubectl describe service \(name)"
                )
            )
        }
        return .failed(
            Problem(
                .failed,
                "the cluster gives Service '\(ours.name)' no load balancer within \(Self.balancerWithin.components.seconds) s",
                "Look why: kubectl describe service \(name). Without load balancers: kl env connect --way node-port"
            )
        )
    }

    /// Removes this workspace's Services of these pods. Those that stay go with their pods.
    func removeWays(to pods: [Pod]) async {
        guard await self.keeper.forgetPlaces(of: self.key, pods) || self.way != .podAddress else { return }
        let query = [("labelSelector", TunnelService.selector(of: self.key))]
        guard let all: (objects: [ServiceObject], String?) = try? await self.client.list(query) else { return }
        let owners = Set(pods.map(\.uid))
        let ours = all.objects.filter { TunnelService.isOurs($0) && $0.isOwned(byAnyOf: owners) }
        await withTaskGroup { group in
            for service in ours where KubernetesPlace.isSoundName(service.name) {
                group.addTask { try? await self.client.delete(self.client.path("services/\(service.name)")) }
            }
        }
    }
}

extension ServiceObject {
    fileprivate func isOwned(byAnyOf uids: Set<String>) -> Bool {
        (self.metadata.ownerReferences ?? []).contains { $0.uid.map { uids.contains($0) } ?? false }
    }
}
