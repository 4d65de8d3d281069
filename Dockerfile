# The sidecar's image: one static program, the few shared libraries that it needs, and nothing else.
#
#   docker build -t kl-sidecar:0.1.0 .                          builds the program in a Swift image
#   docker build -t kl-sidecar:0.1.0 --build-arg BINARY=IMAGE .  takes it from an image that holds it at /rootfs
#
# agent/image does both. The classic builder suffices (DOCKER_BUILDKIT=0); since it goes through every stage, needed or
# not, the stage `build` acts only where another one is made from it.
ARG BINARY=build
ARG SWIFT=swift:6.3-bookworm

FROM ${SWIFT} AS build
ONBUILD RUN apt-get -q update \
    && apt-get -q install -y --no-install-recommends libsodium-dev pkg-config
ONBUILD WORKDIR /source
ONBUILD COPY Package.swift ./
ONBUILD COPY Sources Sources
ONBUILD COPY Tests Tests
ONBUILD COPY agent/rootfs agent/rootfs
ONBUILD RUN swift build -c release --product kl-sidecar --static-swift-stdlib \
    && agent/rootfs .build/release/kl-sidecar /rootfs

FROM ${BINARY} AS binary

FROM scratch
ARG VERSION
ARG REVISION
LABEL org.opencontainers.image.title="kl-sidecar" \
    org.opencontainers.image.description="Stands next to a service and hands its connections to a workspace." \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}"
COPY --from=binary /rootfs/ /
ENTRYPOINT ["/kl-sidecar"]
