# The image that deploy/kubernetes runs: the release binary with what it is linked to and pushes its ledger with,
# as deploy/image-root says, and nothing else.
#
#   make image            builds it without a container tool
#   docker build -t rekeyd .
FROM docker.io/library/rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked --bin rekeyd \
    && deploy/image-root target/release/rekeyd /root-of-image --git

FROM scratch
COPY --from=build /root-of-image /
USER 65532:65532
ENV PATH=/bin:/usr/bin
ENTRYPOINT ["/bin/rekeyd"]
CMD ["run"]
