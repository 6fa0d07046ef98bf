//! Commands and daemons that run: what they print, and how they end. No wait is longer than [`PATIENCE`].

use std::time::Duration;

use rekeyd::clock::{Clock as _, SystemClock};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, waitid};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Nothing here takes longer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);

/// Runs any command to its end.
pub(crate) async fn answer(mut command: Command) -> Answer {
    let words = words(&command);
    let output = in_time(&words, command.output()).await.expect("output");
    Answer::new(words, &output)
}

pub(crate) async fn in_time<T>(what: &str, work: impl Future<Output = T>) -> T {
    timeout(PATIENCE, work).await.unwrap_or_else(|_| panic!("`{what}` does not end"))
}

/// Whoever looks without a pause takes the machine away from what is waited for.
pub(crate) const LOOK: Duration = Duration::from_millis(50);

/// Looks again and again until something is so.
pub(crate) async fn until(what: &str, is_so: impl AsyncFn() -> bool) {
    let looks = async {
        while !is_so().await {
            SystemClock.sleep(LOOK).await;
        }
    };
    in_time(what, looks).await;
}

pub(crate) fn words(command: &Command) -> String {
    command.as_std().get_args().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// What a command printed, and its exit code.
#[derive(Debug)]
pub(crate) struct Answer {
    command: String,
    /// `None` when a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Answer {
    #[track_caller]
    pub(crate) fn new(command: String, output: &std::process::Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
        let answer = Self {
            command,
            code: output.status.code(),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
        };
        assert!(!answer.stderr.contains("panicked at"), "{answer}");
        answer
    }

    /// Asserts the exit code.
    #[track_caller]
    pub(crate) fn ended(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self}");
        self
    }

    /// Asserts that each text was printed, on standard output or standard error.
    #[track_caller]
    pub(crate) fn says(self, texts: &[&str]) -> Self {
        for text in texts {
            let said = self.stdout.contains(text) || self.stderr.contains(text);
            assert!(said, "it does not say `{text}`: {self}");
        }
        self
    }

    /// Standard output as one JSON document.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self}"))
    }

    /// Standard output as one JSON document a line.
    #[track_caller]
    pub(crate) fn lines(&self) -> Vec<Value> {
        let parse = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {self}"));
        self.stdout.lines().map(parse).collect()
    }

    /// How a rotation ended: the last of the JSON lines.
    #[track_caller]
    pub(crate) fn ending(&self) -> Value {
        let ending = self.lines().pop().map(|mut line| line["ending"].take());
        ending.filter(Value::is_object).unwrap_or_else(|| panic!("no ending: {self}"))
    }
}

impl std::fmt::Display for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { command, code, stdout, stderr } = self;
        write!(f, "`{command}` ended with {code:?}\n--- stdout\n{stdout}\n--- stderr\n{stderr}")
    }
}

/// A command that is running and prints JSON lines.
pub(crate) struct Running {
    command: String,
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    stderr: JoinHandle<String>,
    pub(crate) seen: Vec<Value>,
}

impl Running {
    pub(crate) fn new(command: String, mut child: Child) -> Self {
        let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let mut pipe = child.stderr.take().expect("a pipe");
        let stderr = tokio::spawn(async move {
            let mut text = String::new();
            let _ = pipe.read_to_string(&mut text).await;
            text
        });
        Self { command, child, lines, stderr, seen: Vec::new() }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id().expect("it was not waited for")
    }

    /// Reads on until an event of a step; `false` when the command ended without it.
    pub(crate) async fn reaches(&mut self, event: &str, step: &str) -> bool {
        while let Some(line) = self.next().await {
            if line["event"]["event"] == event && line["event"]["step"] == step {
                return true;
            }
        }
        false
    }

    /// The same, and the event must come.
    pub(crate) async fn until(&mut self, event: &str, step: &str) {
        if !self.reaches(event, step).await {
            let stderr = (&mut self.stderr).await.unwrap_or_default();
            panic!("`{}` ended without `{event}` of {step}: {:#?}\n{stderr}", self.command, self.seen);
        }
    }

    /// Reads on until something waits for this; it may have been said already.
    pub(crate) async fn until_told(&mut self, why: &str) {
        let says = |line: &Value| line["event"]["detail"].as_str().is_some_and(|detail| detail.contains(why));
        while !self.seen.iter().any(says) {
            assert!(
                self.next().await.is_some(),
                "`{}` ended without `{why}`: {:#?}",
                self.command,
                self.seen
            );
        }
    }

    /// The next line; `None` at the end.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        let line = in_time(&self.command, self.lines.next_line()).await.expect("text")?;
        let line: Value = serde_json::from_str(&line).expect("JSON");
        self.seen.push(line.clone());
        Some(line)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        send(self.pid(), signal);
    }

    /// Waits until it stands still; `false` when it ended instead.
    pub(crate) async fn stands_still(&self) -> bool {
        let pid = id(self.pid());
        let wait = move || {
            let options = WaitIdOptions::STOPPED | WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
            waitid(WaitId::Pid(pid), options).expect("a child")
        };
        let status = tokio::task::spawn_blocking(wait).await.expect("no panic");
        status.is_some_and(|status| status.stopped())
    }

    /// Ends it with SIGKILL, and gives the lines it printed.
    pub(crate) async fn kill(mut self) -> Vec<Value> {
        self.child.kill().await.expect("killed");
        while self.next().await.is_some() {}
        self.seen
    }

    /// Waits for its end. The answer has all lines, those read before too.
    pub(crate) async fn end(mut self) -> Answer {
        while self.next().await.is_some() {}
        let status = in_time(&self.command, self.child.wait()).await.expect("a status");
        let stdout: String = self.seen.iter().map(|line| format!("{line}\n")).collect();
        let stderr = self.stderr.await.expect("text").into_bytes();
        Answer::new(self.command, &std::process::Output { status, stdout: stdout.into_bytes(), stderr })
    }
}

/// A daemon that is running.
pub(crate) struct Daemon {
    child: Child,
    log: mpsc::UnboundedReceiver<Value>,
    pub(crate) seen: Vec<Value>,
}

impl Daemon {
    pub(crate) fn new(mut child: Child) -> Self {
        let stderr = child.stderr.take().expect("a pipe");
        let (sender, log) = mpsc::unbounded_channel();
        // Read all the time, so that the daemon never waits for a reader of its log.
        tokio::spawn(async move {
            let mut lines = BufReader::new(stderr).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                let entry = serde_json::from_str(&line).unwrap_or_else(|_| json!({"message": line}));
                if sender.send(entry).is_err() {
                    break;
                }
            }
        });
        Self { child, log, seen: Vec::new() }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id().expect("it was not waited for")
    }

    /// Reads on in the log until an entry that fits.
    pub(crate) async fn until(&mut self, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        loop {
            match timeout(PATIENCE, self.log.recv()).await {
                Ok(Some(entry)) => {
                    self.seen.push(entry.clone());
                    if fits(&entry) {
                        return entry;
                    }
                }
                Ok(None) => panic!("the daemon ended before {what}: {}", self.shown()),
                Err(_) => panic!("in vain: {what}: {}", self.shown()),
            }
        }
    }

    /// Reads on until this message.
    pub(crate) async fn says(&mut self, message: &str) -> Value {
        self.until(&format!("`{message}`"), |entry| entry["message"] == message).await
    }

    /// Reads on until a message about a policy.
    pub(crate) async fn says_of(&mut self, policy: &str, message: &str) -> Value {
        let what = format!("`{message}` of {policy}");
        self.until(&what, |entry| entry["message"] == message && entry["policy"] == policy).await
    }

    pub(crate) fn signal(&self, signal: Signal) {
        send(self.pid(), signal);
    }

    /// Asks for a path at the address that its log names.
    pub(crate) async fn http(&self, path: &str) -> Reply {
        let ready = self.seen.iter().find(|entry| entry["message"] == "ready").expect("it is ready");
        let address = ready["listen"].as_str().expect("it listens");
        let exchange = async {
            let mut stream = TcpStream::connect(address).await?;
            let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await?;
            let mut reply = String::new();
            stream.read_to_string(&mut reply).await.map(|_| reply)
        };
        let reply = in_time(path, exchange).await.expect("a reply");
        let (head, body) = reply.split_once("\r\n\r\n").expect("a head");
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        Reply { status, head: head.to_owned(), body: body.to_owned() }
    }

    /// Ends it with SIGTERM, which must go well, and gives the whole log.
    pub(crate) async fn stop(self) -> Vec<Value> {
        self.signal(Signal::TERM);
        self.ended().await
    }

    /// Waits for its end, which must be a good one, and gives the whole log.
    pub(crate) async fn ended(mut self) -> Vec<Value> {
        let status = in_time("run", self.child.wait()).await.expect("a status");
        while let Some(entry) = self.log.recv().await {
            self.seen.push(entry);
        }
        assert!(status.success(), "{status}: {}", self.shown());
        let panicked =
            |entry: &Value| entry["message"].as_str().is_some_and(|text| text.contains("panicked"));
        assert!(!self.seen.iter().any(panicked), "{}", self.shown());
        self.seen
    }

    /// Ends it as a failed assertion would; whether it left a core file.
    pub(crate) async fn crashed(mut self) -> bool {
        use std::os::unix::process::ExitStatusExt as _;
        self.signal(Signal::ABORT);
        in_time("run", self.child.wait()).await.expect("a status").core_dumped()
    }

    /// Ends it with SIGKILL.
    pub(crate) async fn kill(mut self) {
        self.child.kill().await.expect("killed");
    }

    fn shown(&self) -> String {
        self.seen.iter().map(|entry| format!("\n{entry}")).collect()
    }
}

/// What a web server answered.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

fn id(pid: u32) -> Pid {
    Pid::from_raw(i32::try_from(pid).expect("a process id")).expect("a process id")
}

fn send(pid: u32, signal: Signal) {
    rustix::process::kill_process(id(pid), signal).expect("a living process");
}
