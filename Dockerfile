# The image that deploy/kubernetes runs: the release binary and the libraries that it is linked to, nothing else.
#
#   make image            builds it without a container tool
#   docker build -t rekeyd .
FROM docker.io/library/rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked --bin rekeyd \
    && mkdir -p /root-of-image/bin /root-of-image/tmp /root-of-image/etc \
    && cp target/release/rekeyd /root-of-image/bin/rekeyd \
    && chmod 1777 /root-of-image/tmp \
    && echo 'rekeyd:x:65532:65532::/:/bin/rekeyd' >/root-of-image/etc/passwd \
    && ldd target/release/rekeyd | grep -o '/[^ ]*' | sort -u \
       | xargs -I{} sh -c 'install -D -m 755 "$(realpath {})" "/root-of-image{}"' \
    && for library in libnss_files.so.2 libnss_dns.so.2; do \
         found=$(ldconfig -p | sed -n "s/.*$library.*=> //p" | head -n 1); \
         [ -z "$found" ] || install -D -m 755 "$(realpath "$found")" "/root-of-image$found"; \
       done

FROM scratch
COPY --from=build /root-of-image /
USER 65532:65532
ENTRYPOINT ["/bin/rekeyd"]
CMD ["run"]
