//! A TCP proxy that breaks a connection at a chosen point of the conversation.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// What becomes of the request that holds the trigger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It never reaches the server; the connection is cut.
    LoseRequest,
    /// The server has answered when the connection is cut.
    LoseReply,
    /// The server's answer is kept back, and the connection open.
    Silence,
}

/// Forwards to a server until a request holds the trigger.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    faults: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Proxy {
    pub(crate) async fn start(server: (&str, u16), trigger: &'static str, fault: Fault) -> Self {
        Self::start_at([127, 0, 0, 1], server, trigger, fault).await
    }

    /// One that listens at another address of this machine.
    pub(crate) async fn start_at(
        address: [u8; 4],
        server: (&str, u16),
        trigger: &'static str,
        fault: Fault,
    ) -> Self {
        let server = (server.0.to_owned(), server.1);
        let listener = TcpListener::bind(SocketAddr::from((address, 0))).await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let faults = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&faults);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let upstream = TcpStream::connect((server.0.as_str(), server.1)).await.expect("the server");
                tokio::spawn(converse(client, upstream, trigger, fault, Arc::clone(&count)));
            }
        });
        Self { port, faults, task }
    }

    /// How often the fault happened.
    pub(crate) fn faults(&self) -> usize {
        self.faults.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn converse(
    mut client: TcpStream,
    mut server: TcpStream,
    trigger: &'static str,
    fault: Fault,
    faults: Arc<AtomicUsize>,
) {
    let (mut request, mut reply) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
    loop {
        tokio::select! {
            read = client.read(&mut request) => {
                let Ok(length @ 1..) = read else { return };
                let request = &request[..length];
                if request.windows(trigger.len()).any(|window| window == trigger.as_bytes()) {
                    faults.fetch_add(1, Ordering::SeqCst);
                    if fault == Fault::LoseRequest {
                        return;
                    }
                    server.write_all(request).await.expect("the server");
                    // A server answers a batch when it is done with it.
                    let _ = server.read(&mut reply).await;
                    if fault == Fault::Silence {
                        std::future::pending::<()>().await;
                    }
                    return;
                }
                if server.write_all(request).await.is_err() {
                    return;
                }
            }
            read = server.read(&mut reply) => {
                let Ok(length @ 1..) = read else { return };
                if client.write_all(&reply[..length]).await.is_err() {
                    return;
                }
            }
        }
    }
}
