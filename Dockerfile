# The image: the program and its licences on top of an empty base image.
#
#   docker build -t roomcast .               an ordinary user, port 8080
#   docker build -t roomcast --target aci .  root, ports 80 and 443: Azure Container Instances
#
# Needs BuildKit (the default since Docker 23) or buildah. On Azure, deploy/acr.yaml builds it.

# The build stage runs on the build machine's architecture: the compiler cross-compiles, so no
# emulator is needed.
FROM --platform=$BUILDPLATFORM docker.io/library/rust:1.95.0-slim-bookworm AS build
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
WORKDIR /src
ARG TARGETARCH
# `make` builds the allocator. These packages are not pinned: a Debian release has a single version of
# them.
# hadolint ignore=DL3008
RUN case "$TARGETARCH" in \
      amd64) cpu=x86_64 ;; \
      arm64) cpu=aarch64 ;; \
      *) echo "no build for $TARGETARCH yet" >&2; exit 1 ;; \
    esac; \
    echo "$cpu" > /cpu; \
    mkdir /empty; \
    if ! command -v make; then \
      apt-get update; \
      apt-get install -y --no-install-recommends make; \
      rm -rf /var/lib/apt/lists/*; \
    fi; \
    if [ "$TARGETARCH" != "$(dpkg --print-architecture)" ]; then \
      apt-get update; \
      apt-get install -y --no-install-recommends \
        "gcc-$(echo "$cpu" | tr _ -)-linux-gnu" "libc6-dev-$TARGETARCH-cross"; \
      rm -rf /var/lib/apt/lists/*; \
      rustup target add "$cpu-unknown-linux-gnu"; \
    fi
COPY . .
# Links glibc statically, which keeps its resolver. Kernels on arm64 may have pages of up to 64 KiB,
# for which the allocator has to be built. The target is named even for a
# native build: only then RUSTFLAGS apply to the program and not also to procedural macros.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target,sharing=locked \
    cpu="$(cat /cpu)"; \
    if [ "$cpu" = aarch64 ]; then export JEMALLOC_SYS_WITH_LG_PAGE=16; fi; \
    export RUSTFLAGS="-C target-feature=+crt-static -C linker=$cpu-linux-gnu-gcc"; \
    cargo build --locked --profile dist --target "$cpu-unknown-linux-gnu"; \
    cp "target/$cpu-unknown-linux-gnu/dist/roomcast" /roomcast

FROM scratch AS image
LABEL org.opencontainers.image.title="Roomcast" \
      org.opencontainers.image.description="Shows what is published on Redis, live, in browsers." \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.url="https://github.com/roomcast/roomcast" \
      org.opencontainers.image.source="https://github.com/roomcast/roomcast" \
      org.opencontainers.image.documentation="https://github.com/roomcast/roomcast#readme"
# Mozilla's roots are in the binary. To trust a CA of your own, add it to this file or mount a file
# over it.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build --chown=65532:65532 /empty/ /.local/share/certmagic/
COPY LICENSE THIRD-PARTY-LICENCES.txt /usr/share/doc/roomcast/
COPY --from=build /roomcast /bin/
ENV PATH=/bin \
    SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt \
    REDISHOST=localhost:6379 \
    CERT_DIR=/.local/share/certmagic
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s CMD ["roomcast", "healthcheck"]
ENTRYPOINT ["roomcast"]

# Azure Container Instances mounts a file share that only root can access.
FROM image AS aci
ENV HTTP_ADDR=:80
EXPOSE 80 443
# hadolint ignore=DL3002
USER 0:0

FROM image AS final
ENV HTTP_ADDR=:8080
EXPOSE 8080
USER 65532:65532
