//! Carrying out what probes and hooks ask.

use std::{io, net::IpAddr};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{PodContext, children::Child, grpc, node::NodeRuntime, tls};
use crate::{
    pods::action::{Action, Target},
    streams::collect,
};

/// The most that is kept of what a probe prints or answers, in bytes, as a kubelet does.
const MAX_OUTPUT: usize = 10 << 10;

/// A process that is killed unless it ends first: its probe ran out of time.
struct Guarded(Child);

impl Drop for Guarded {
    fn drop(&mut self) {
        if let Some(pid) = Pid::from_raw(self.0.pid()) {
            // It is this process's child and not yet reaped, or gone: then there is none to kill.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// Does it to the running container `id`; a failure says what went wrong.
pub(super) async fn run(
    runtime: &NodeRuntime,
    pod: &PodContext,
    id: &str,
    action: &Action,
) -> Result<(), String> {
    match action {
        Action::Sleep(time) => {
            tokio::time::sleep(*time).await;
            Ok(())
        }
        Action::Exec(command) => exec(runtime, id, command).await,
        Action::Tcp(target) => connect(pod, *target).await.map(drop),
        Action::Http { target, tls, request } => http(pod, *target, *tls, request).await,
        Action::Grpc { target, service } => {
            let connection = connect(pod, *target).await?;
            grpc::check(connection, &authority(pod, *target), service).await
        }
    }
}

async fn exec(runtime: &NodeRuntime, id: &str, command: &[String]) -> Result<(), String> {
    let started = runtime.exec(id, command, false, false).await;
    let (io, child) = started.map_err(|error| error.to_string())?;
    let child = Guarded(child);
    let output = std::cell::RefCell::new(Vec::new());
    let sink = |_, bytes: &[u8]| {
        let mut output = output.borrow_mut();
        let room = MAX_OUTPUT.saturating_sub(output.len());
        output.extend_from_slice(bytes.get(..room).unwrap_or(bytes));
    };
    let code = tokio::select! {
        code = child.0.wait() => code,
        // What it printed last comes first; its end follows.
        _ = collect(&io, &sink) => child.0.wait().await,
    };
    match code.map_err(|error| error.to_string())? {
        0 => Ok(()),
        code => {
            let output = String::from_utf8_lossy(&output.borrow()).trim_end().to_owned();
            Err(if output.is_empty() { format!("exit status {code}") } else { output })
        }
    }
}

async fn connect(pod: &PodContext, target: Target) -> Result<TcpStream, String> {
    let host = target.host.or(pod.ip.map(IpAddr::V4));
    let host = host.ok_or("the pod has no address")?;
    TcpStream::connect((host, target.port))
        .await
        .map_err(|error| format!("dial tcp {host}:{}: {error}", target.port))
}

/// Address and port, as a request's `Host` names them.
fn authority(pod: &PodContext, target: Target) -> String {
    match target.host.or(pod.ip.map(IpAddr::V4)) {
        Some(IpAddr::V6(ip)) => format!("[{ip}]:{}", target.port),
        Some(IpAddr::V4(ip)) => format!("{ip}:{}", target.port),
        None => String::new(),
    }
}

async fn http(pod: &PodContext, target: Target, tls: bool, request: &[u8]) -> Result<(), String> {
    let connection = connect(pod, target).await?;
    let authority = authority(pod, target);
    let answered = if tls {
        let address = connection.peer_addr().map(|peer| peer.ip());
        match address {
            Ok(address) => match tls::connect(connection, address).await {
                Ok(connection) => exchange(connection, &authority, request).await,
                Err(error) => Err(error),
            },
            Err(error) => Err(error),
        }
    } else {
        exchange(connection, &authority, request).await
    };
    match answered.map_err(|error| format!("Get: {error}"))? {
        Some(200..=399) => Ok(()),
        Some(status) => Err(format!("HTTP probe failed with statuscode: {status}")),
        None => Err(String::from("Get: malformed HTTP response")),
    }
}

/// Sends a request and reads its answer's status; `None` if that is none of HTTP/1.
async fn exchange(
    mut connection: impl AsyncRead + AsyncWrite + Unpin,
    authority: &str,
    request: &[u8],
) -> io::Result<Option<u16>> {
    let mut request = request.to_vec();
    let names_host = request
        .split(|byte| *byte == b'\n')
        .any(|line| line.get(..5).is_some_and(|name| name.eq_ignore_ascii_case(b"host:")));
    if !names_host {
        request.extend(format!("Host: {authority}\r\n").into_bytes());
    }
    request.extend(b"\r\n");
    connection.write_all(&request).await?;
    connection.flush().await?;
    let mut answer = Vec::new();
    let mut limited = connection.take(MAX_OUTPUT as u64);
    // The status line is all that counts: a server may keep the rest open.
    while !answer.contains(&b'\n') {
        if limited.read_buf(&mut answer).await? == 0 {
            break;
        }
    }
    Ok(status(&answer))
}

/// The status of an HTTP/1 answer (RFC 9112 §4).
fn status(answer: &[u8]) -> Option<u16> {
    let line = answer.split(|byte| *byte == b'\n').next()?;
    let line = std::str::from_utf8(line).ok()?;
    let mut words = line.trim_end().split(' ');
    if !words.next()?.starts_with("HTTP/1.") {
        return None;
    }
    words.next().filter(|code| code.len() == 3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::status;

    #[test]
    fn only_a_status_line_has_a_status() {
        assert_eq!(status(b"HTTP/1.1 204 No Content\r\nA: b\r\n"), Some(204));
        assert_eq!(status(b"HTTP/1.0 500\r\n"), Some(500));
        for answer in [&b""[..], b"SSH-2.0-x\r\n", b"HTTP/1.1 2000 x\n", b"HTTP/1.1\n", b"\xff\n"] {
            assert_eq!(status(answer), None, "{answer:?}");
        }
    }
}
