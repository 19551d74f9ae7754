//! Probing one container for readiness.
//!
//! Only an answer of the program itself counts. The engine's own proxy accepts connections on a published
//! port whether or not a program listens behind it. So a probe connects to the container's own address. If
//! that is unreachable from here, an HTTP answer still comes from the program, whatever forwarded it, and
//! the kernel may show that the program listens. Otherwise the state is unknown, which is reported and does
//! not count as a miss. In the host's network, any program of the host may answer on the port, so the kernel must
//! show that the socket belongs to the container, as far as abide may see it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hyper::header::{HeaderName, HeaderValue};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::ProbeTarget;
use super::http::HttpProbe;
use super::sockets;
use crate::controller::docker::{ContainerReach, Engine, EngineError, HealthCheck, Vitals};
use crate::model::container::Secret;
use crate::model::observed::EngineHealth;
use crate::model::spec::Probe;
use crate::secret;

/// The `Host` of a request if none is declared.
const LOCALHOST: &str = "localhost";

/// Lines of output that a message shows.
const LAST_LINES: usize = 3;

/// The result of one probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ProbeResult {
    /// The program answered as it should.
    Good,
    /// The program did not, with the reason.
    Miss(String),
    /// The state is unknown, which does not count as a miss; with the reason, if it is known.
    Unknown(Option<String>),
}

/// Probes one container from one start to its end.
pub(super) struct ContainerProbe {
    engine: Arc<Engine>,
    target: ProbeTarget,
    /// The container's process ID, once it was requested.
    pid: Option<u32>,
    /// A socket in the host's network that belongs to the container.
    own_socket: Option<u64>,
    /// A command that exceeded its timeout, and its start.
    hung: Option<(String, Instant)>,
    /// The time that the image's own check may take until it has decided.
    pub(super) needs: Duration,
}

impl ContainerProbe {
    pub(super) fn new(engine: Arc<Engine>, target: ProbeTarget) -> Self {
        Self { engine, target, pid: None, own_socket: None, hung: None, needs: Duration::ZERO }
    }

    /// Probes once. With `hints`, a miss names the addresses at which the program listens instead, which costs
    /// one engine call.
    pub(super) async fn ask(&mut self, hints: bool) -> ProbeResult {
        match self.target.health.probe.clone() {
            Probe::None | Probe::Running => ProbeResult::Good,
            Probe::Tcp | Probe::Http(_) => self.over_network(hints).await,
            Probe::Command(command) => self.command(&command).await,
            Probe::Docker => self.docker().await,
        }
    }

    // --- over the network ---------------------------------------------------------------------

    async fn over_network(&mut self, hints: bool) -> ProbeResult {
        let Some(port) = self.target.port else {
            return ProbeResult::Unknown(Some("the probe needs a port, and none is declared".to_owned()));
        };
        match self.engine.reach().await {
            Ok(ContainerReach::Direct) => self.directly(port, hints).await,
            Ok(ContainerReach::Published { host, why }) => self.at_published_port(port, &host, why).await,
            Err(_) => ProbeResult::Unknown(None),
        }
    }

    async fn directly(&mut self, port: u16, hints: bool) -> ProbeResult {
        let Some(address) = self.target.address else {
            return ProbeResult::Miss("the container has no address in the managed network yet".to_owned());
        };
        let address = SocketAddr::new(address, port);
        let patience = self.target.health.timeout;
        match timeout(patience, self.exchange(TcpStream::connect(address), port)).await {
            Ok(Ok(ProbeResult::Good)) if address.ip().is_loopback() => self.in_network_of_host(address).await,
            Ok(Ok(answer)) => answer,
            // The sockets of the host's network are mostly those of other programs.
            Ok(Err(error))
                if error.kind() == std::io::ErrorKind::ConnectionRefused && address.ip().is_loopback() =>
            {
                ProbeResult::Miss(format!(
                    "nothing listens on port {port} of the host, whose network it uses"
                ))
            }
            Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                let sockets = if hints { self.listening().await } else { None };
                ProbeResult::Miss(sockets::nothing_listens(port, sockets.as_deref()))
            }
            Ok(Err(error)) => ProbeResult::Miss(format!("no connection to {address}: {error}")),
            Err(_) => ProbeResult::Miss(format!("no answer on port {port} within {}", words(patience))),
        }
    }

    /// Whether the program that answered at an address of the host is the container's. An answer of another
    /// program is not a failure, unless the container's program answered there before.
    async fn in_network_of_host(&mut self, address: SocketAddr) -> ProbeResult {
        let Some(pid) = self.pid().await else { return ProbeResult::Good };
        let (container, proven) = (self.target.container.clone(), self.own_socket);
        let asked = tokio::task::spawn_blocking(move || sockets::owner(pid, &container, address, proven));
        match asked.await {
            Ok(Some(Ok(inode))) => {
                self.own_socket = Some(inode);
                ProbeResult::Good
            }
            Ok(Some(Err(()))) => {
                let port = address.port();
                let why = format!(
                    "another program of this host answers on port {port}, not the container's: `ss -ltnp` \
                    shows it"
                );
                if self.own_socket.is_some() {
                    ProbeResult::Miss(why)
                } else {
                    ProbeResult::Unknown(Some(why))
                }
            }
            Ok(None) | Err(_) => ProbeResult::Good,
        }
    }

    /// Connects, and sends an HTTP request if the probe is one.
    async fn exchange(
        &self,
        connect: impl Future<Output = std::io::Result<TcpStream>>,
        port: u16,
    ) -> std::io::Result<ProbeResult> {
        let stream = connect.await?;
        let Probe::Http(path) = &self.target.health.probe else { return Ok(ProbeResult::Good) };
        let headers = match self.headers() {
            Ok(headers) => headers,
            Err(why) => return Ok(ProbeResult::Unknown(Some(why))),
        };
        let host = self.target.health.host.as_deref().or(self.target.hostname.as_deref());
        let request = HttpProbe {
            path,
            port,
            host: host.unwrap_or(LOCALHOST),
            is_host_declared: host.is_some(),
            headers: &headers,
        };
        Ok(request.send(stream).await)
    }

    /// The declared headers with their values, which may be secrets that are renewed.
    fn headers(&self) -> Result<Vec<(String, Secret)>, String> {
        let read = |(name, value): (&String, _)| {
            let value =
                secret::value(value).map_err(|error| format!("the probe's header {name}: {error}"))?;
            let is_one_line = HeaderValue::from_str(value.expose()).is_ok();
            if !is_one_line || HeaderName::from_bytes(name.as_bytes()).is_err() {
                return Err(format!("the probe's header {name} must be one line of text"));
            }
            Ok((name.clone(), value))
        };
        self.target.health.headers.iter().map(read).collect()
    }

    /// Probes the published port if the container's own address is unreachable from here.
    async fn at_published_port(&mut self, port: u16, host: &str, why: &str) -> ProbeResult {
        if self.target.health.probe == Probe::Tcp {
            return match self.listening().await {
                Some(sockets) if sockets.iter().any(|socket| sockets::is_open(*socket, port)) => {
                    ProbeResult::Good
                }
                Some(sockets) => ProbeResult::Miss(sockets::nothing_listens(port, Some(&sockets))),
                None => unreachable_from_here(why),
            };
        }
        let Some(publish) = self.target.publish else { return unreachable_from_here(why) };
        let address = publish.address.filter(|address| !address.is_unspecified());
        let host = address.map_or_else(|| host.to_owned(), |address: IpAddr| address.to_string());
        let patience = self.target.health.timeout;
        let connect = TcpStream::connect((host.as_str(), publish.port));
        match timeout(patience, self.exchange(connect, port)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => ProbeResult::Unknown(Some(format!(
                "{why}, and the published port {host}:{} is not reachable from here: {error}",
                publish.port
            ))),
            Err(_) => ProbeResult::Miss(format!("no answer on port {port} within {}", words(patience))),
        }
    }

    /// The addresses at which programs in the container listen, if this host shows them.
    async fn listening(&mut self) -> Option<Vec<SocketAddr>> {
        sockets::listening(self.pid().await?, &self.target.container)
    }

    /// The container's first process.
    async fn pid(&mut self) -> Option<u32> {
        if self.pid.is_none() {
            self.pid = self.engine.vitals(&self.target.container).await.ok().flatten()?.pid;
        }
        self.pid
    }

    // --- in the container ---------------------------------------------------------------------

    /// Runs a command. The engine cannot end one that hangs, so no second one is started beside it.
    async fn command(&mut self, command: &[String]) -> ProbeResult {
        let shown = command.join(" ");
        if let Some((exec, since)) = &self.hung {
            match self.engine.is_exec_running(exec).await {
                Ok(true) => {
                    let lasted = Duration::from_secs(since.elapsed().as_secs());
                    return ProbeResult::Miss(format!("`{shown}` has been running for {}", words(lasted)));
                }
                Ok(false) => self.hung = None,
                Err(_) => return ProbeResult::Unknown(None),
            }
        }
        let command: Vec<&str> = command.iter().map(String::as_str).collect();
        let exec = match self.engine.prepare_exec(&self.target.container, &command).await {
            Ok(exec) => exec,
            Err(error) => return not_run(&shown, &error),
        };
        let patience = self.target.health.timeout;
        match timeout(patience, self.engine.run_exec(&exec)).await {
            Ok(Ok((0, _))) => ProbeResult::Good,
            Ok(Ok((code, output))) => {
                ProbeResult::Miss(format!("`{shown}` exited with {code}{}", last_lines(Some(&output))))
            }
            Ok(Err(error)) => not_run(&shown, &error),
            Err(_) => {
                self.hung = Some((exec, Instant::now() - patience));
                ProbeResult::Miss(format!("`{shown}` did not end within {}", words(patience)))
            }
        }
    }

    // --- the image's own check ----------------------------------------------------------------

    async fn docker(&mut self) -> ProbeResult {
        let Ok(Some(vitals)) = self.engine.vitals(&self.target.container).await else {
            return ProbeResult::Unknown(None);
        };
        self.needs = vitals.check.as_ref().map_or(Duration::ZERO, HealthCheck::needs);
        of_vitals(&vitals)
    }
}

/// The result of the image's own check. An undecided check does not count as a miss.
fn of_vitals(vitals: &Vitals) -> ProbeResult {
    let Some(check) = &vitals.check else {
        let lacks =
            if vitals.is_turned_off { "has its HEALTHCHECK turned off" } else { "has no HEALTHCHECK" };
        return ProbeResult::Miss(format!("the image {lacks}: set another `health`, such as `http`"));
    };
    let (every, output) = (words(check.interval), last_lines(vitals.output.as_deref()));
    match (vitals.health, vitals.failures) {
        (EngineHealth::Healthy, _) => ProbeResult::Good,
        (EngineHealth::Unhealthy, failures) => ProbeResult::Miss(format!(
            "its HEALTHCHECK, which runs every {every}, failed {failures} times in a row{output}"
        )),
        (_, 0) => ProbeResult::Unknown(Some(format!(
            "its HEALTHCHECK, which runs every {every}, has no result yet{output}"
        ))),
        (_, failures) => ProbeResult::Unknown(Some(format!(
            "its HEALTHCHECK, which runs every {every}, failed {failures} of {} times{output}",
            check.retries
        ))),
    }
}

/// A command that could not run because of the container's state, or the engine, gives no information.
fn not_run(shown: &str, error: &EngineError) -> ProbeResult {
    match error {
        EngineError::Refused(words) => ProbeResult::Miss(format!("cannot run `{shown}`: {words}")),
        _ => ProbeResult::Unknown(None),
    }
}

fn unreachable_from_here(why: &str) -> ProbeResult {
    ProbeResult::Unknown(Some(format!(
        "{why}, so the container's address is not reachable from here: set `health` to `http` with a \
        published port, to `command` or to `docker`"
    )))
}

/// The last lines of an output that are not empty, as a clause.
fn last_lines(output: Option<&str>) -> String {
    let lines = output.unwrap_or_default().lines().map(str::trim).filter(|line| !line.is_empty());
    let lines: Vec<&str> = lines.collect();
    match &lines[lines.len().saturating_sub(LAST_LINES)..] {
        [] => String::new(),
        last => format!(": {}", last.join(" | ")),
    }
}

fn words(duration: Duration) -> humantime::FormattedDuration {
    humantime::format_duration(duration)
}

#[cfg(test)]
mod tests;
