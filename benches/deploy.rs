//! Measures how soon an environment serves: again after a crash, and with a new version after an
//! update. Compares abide with its peers and with the minimum that the engine needs, all on one
//! engine in one run.
//!
//! A crash ends the main process (`kill -9`), the container (`docker stop`) or all of it
//! (`docker rm -f`); an update uses an image that is present. Each crash is the first of its
//! environment, so the figures include no backoff, and none of the peers is configured to wait.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

#[path = "../tests/common/mod.rs"]
mod common;
mod report;
mod rig;

use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::runtime::Runtime;

use common::{Space, docker, free_port, made_image};
use report::{Samples, Table, goal, ratio, shown, title};
use rig::fleet::Fleet;
use rig::peers::{self, BareWatcher, Peers};
use rig::steady::Steady;
use rig::swarm::{Service, Swarm};
use rig::{engine, http};

/// The number of measurements of each kind; [`ROUNDS_VARIABLE`] overrides it.
const ROUNDS: usize = 8;
/// Overrides the number of measurements.
const ROUNDS_VARIABLE: &str = "ABIDE_BENCH_ROUNDS";
/// The pages of the two alternating images.
const PAGES: [&str; 2] = ["one", "two"];
/// The health probe of an environment: the shortest interval, and one success is enough.
const HEALTH: &str = r#"{ http = "/", interval = "50ms", healthy_for = "0s" }"#;

fn main() {
    let Some(space) = Space::new() else { return };
    let rounds = std::env::var(ROUNDS_VARIABLE).ok().and_then(|count| count.parse().ok()).unwrap_or(ROUNDS);
    let runtime = Runtime::new().unwrap();
    let _entered = runtime.enter();
    let images = PAGES.map(|page| made_image(&space, page, ""));
    // One environment for each crash, and one to update.
    let fleet = Fleet::probed(&space, Harm::ALL.len() * rounds + 1, &images[0], HEALTH);
    let stage = Stage { space: &space, runtime: &runtime, images: &images, fleet: &fleet, rounds };
    let mut swarm = Swarm::make();
    stage.heals(swarm.as_mut());
    stage.updates(swarm.as_mut());
}

/// How a container is ended.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Harm {
    Kill,
    Stop,
    Remove,
}

impl Harm {
    const ALL: [Self; 3] = [Self::Kill, Self::Stop, Self::Remove];

    /// Ends `container`, and returns the time just before.
    fn befall(self, container: &str) -> Instant {
        engine::end(container, |process| match self {
            Self::Kill => kill_process(Pid::from_raw(process).unwrap(), Signal::KILL).unwrap(),
            Self::Stop => drop(docker(&["stop", container])),
            Self::Remove => drop(docker(&["rm", "--force", container])),
        })
    }
}

/// The setup of all measurements.
struct Stage<'a> {
    space: &'a Space,
    runtime: &'a Runtime,
    images: &'a [String; 2],
    fleet: &'a Fleet,
    rounds: usize,
}

/// How soon the container served again.
#[derive(Clone, Default)]
struct Back {
    /// To one client that keeps retrying.
    one: Samples,
    /// To clients that open a new connection.
    any: Samples,
}

/// The same by kind of crash; no samples means never.
type Healed = [Back; Harm::ALL.len()];

impl Back {
    fn add(&mut self, ended: Instant, back: engine::Back) {
        self.one.add(back.one - ended);
        self.any.add(back.any - ended);
    }
}

/// The results of repeated updates.
#[derive(Default)]
struct Updated {
    /// From the request to the first answer of the new version.
    took: Samples,
    /// The time without an answer of either version.
    gap: Samples,
    /// Failed requests; one is sent every 10 ms.
    failed: usize,
}

impl Stage<'_> {
    fn peers(&self) -> Peers<'_> {
        Peers { space: self.space, network: &self.fleet.network }
    }

    // --- heals --------------------------------------------------------------------------------

    fn heals(&self, swarm: Option<&mut Swarm>) {
        let abide = self.abide_heals();
        let always = self.policy_heals();
        let swarm = swarm.map(|swarm| self.swarm_heals(swarm)).unwrap_or_default();
        let event = self.bare_heals();
        let held = self.held_starts();
        title("Until the published port answers again, to one client that keeps asking");
        let mut table = Table::new(&[
            "who",
            "`kill -9`",
            "p90",
            "of the policy",
            "to a new connection",
            "p90",
            "`docker stop`",
            "p90",
            "`docker rm -f`",
            "p90",
        ]);
        let policy = always[0].one.median();
        // A restart policy ignores containers that a user ended; the others were not configured to
        // do more.
        for (who, healed, else_) in [
            ("abide", &abide, ""),
            ("`docker run --restart=always`, first crash", &always, "never"),
            ("Swarm service, restart delay 0", &swarm, ""),
            ("a bare loop: start on the `die` event, own address", &only_kills(&event), ""),
            ("a bare loop, in a namespace that stays", &only_kills(&held.on_event), ""),
            ("the limit: one start call in a namespace that stays", &only_kills(&held.start), ""),
        ] {
            let [kill, stop, remove] = healed.each_ref().map(|back| figures(&back.one, else_));
            let of_policy =
                if healed[0].one.count() > 0 { of(&healed[0].one, policy) } else { String::new() };
            let after_any = figures(&healed[0].any, else_);
            let kill = kill.into_iter().chain([of_policy]).chain(after_any);
            table.row([who.to_owned()].into_iter().chain(kill).chain(stop).chain(remove));
        }
        table.print();
        let killed = abide[0].one.median();
        goal("5 times as fast as `--restart=always` after `kill -9`", killed * 5 <= policy);
        goal(
            "within 1.3 times a bare start into an existing namespace",
            killed.as_secs_f64() <= 1.3 * held.start.one.median().as_secs_f64(),
        );
    }

    fn abide_heals(&self) -> Healed {
        let mut healed = Healed::default();
        for (kind, harm) in Harm::ALL.into_iter().enumerate() {
            for round in 0..self.rounds {
                let running = &self.fleet.environments[kind * self.rounds + round];
                let ended = harm.befall(&running.container);
                healed[kind].add(ended, engine::await_back(self.runtime, running.port));
            }
        }
        healed
    }

    /// A restart policy ignores a container that a user stopped or removed.
    fn policy_heals(&self) -> Healed {
        let mut healed = Healed::default();
        for (round, port) in (0..self.rounds).map(|round| (round, free_port())) {
            let id = self.peers().run(&format!("always{round}"), &self.images[0], port, "always");
            engine::await_served(self.runtime, port);
            let ended = Harm::Kill.befall(&id);
            healed[0].add(ended, engine::await_back(self.runtime, port));
        }
        healed
    }

    fn swarm_heals(&self, swarm: &mut Swarm) -> Healed {
        let service = swarm.serve(self.space, "healed", &self.images[0]);
        let mut healed = Healed::default();
        let mut container = service.container(None);
        for (kind, harm) in Harm::ALL.into_iter().enumerate() {
            for _ in 0..self.rounds.div_ceil(2) {
                engine::await_served(self.runtime, service.port);
                let ended = harm.befall(&container);
                healed[kind].add(ended, engine::await_back(self.runtime, service.port));
                container = service.container(Some(&container));
            }
        }
        healed
    }

    fn bare_heals(&self) -> Back {
        let mut healed = Back::default();
        for (round, port) in (0..self.rounds).map(|round| (round, free_port())) {
            let id = self.peers().run(&format!("bare{round}"), &self.images[0], port, "no");
            engine::await_served(self.runtime, port);
            let watcher = BareWatcher::new(&id);
            let ended = Harm::Kill.befall(&id);
            watcher.start_on_event();
            healed.add(ended, engine::await_back(self.runtime, port));
        }
        healed
    }

    fn held_starts(&self) -> Held {
        let mut held = Held::default();
        let port = free_port();
        let holder = self.peers().hold("holder", &self.images[0], port);
        let id = self.peers().create_in("held", &self.images[0], &holder);
        for _ in 0..self.rounds {
            let asked = Instant::now();
            peers::start(&id);
            held.start.add(asked, engine::await_back(self.runtime, port));
            let watcher = BareWatcher::new(&id);
            let ended = Harm::Kill.befall(&id);
            watcher.start_on_event();
            held.on_event.add(ended, engine::await_back(self.runtime, port));
            Harm::Kill.befall(&id);
            peers::await_end(&id);
        }
        held
    }

    // --- updates ------------------------------------------------------------------------------

    fn updates(&self, swarm: Option<&mut Swarm>) {
        let own = self.first_probes();
        let port = free_port();
        let holder = self.peers().hold("namespace", &self.images[0], port);
        let held = self.held_first_probes(&holder, port);
        let abide = self.abide_updates(self.fleet);
        let switched = self.front_updates();
        let scripts = self.script_updates();
        let swarm = swarm.map(|swarm| self.swarm_updates(swarm));
        title("An update to an image that is present, under 100 requests a second");
        let mut table = Table::new(&[
            "who",
            "new version serves after",
            "p90",
            "of the limit",
            "neither serves",
            "p90",
            "requests failed, each update",
        ]);
        let limit = own.median();
        for (what, samples) in [
            ("the limit: create, start, first good answer", &own),
            ("the same in a namespace that stays", &held),
        ] {
            let (median, p90) = (shown(samples.median()), shown(samples.p90()));
            table.row([what.to_owned(), median, p90, of(samples, limit), "".into(), "".into(), "".into()]);
        }
        for (who, updated) in [
            ("abide, stop-first on a port of its own", Some(&abide)),
            ("abide behind its front, start-first", switched.as_ref()),
            ("the old scripts: `docker rm -f`, `docker run`", Some(&scripts)),
            ("Swarm service, stop-first", swarm.as_ref()),
        ] {
            table.row(updated.map_or(vec![who.to_owned()], |updated| updated.row(who, limit, self.rounds)));
        }
        table.print();
        let within = |took: &Samples| took.median().as_secs_f64() <= 1.2 * limit.as_secs_f64();
        goal("an update within 1.2 times create, start and the first good answer", within(&abide.took));
        if let Some(switched) = switched {
            goal("the same behind the front", within(&switched.took));
            goal("no request fails behind the front", switched.failed == 0);
        }
    }

    fn first_probes(&self) -> Samples {
        let mut samples = Samples::default();
        for (round, port) in (0..self.rounds).map(|round| (round, free_port())) {
            samples.time(|| {
                let id = self.peers().create(&format!("first{round}"), &self.images[0], port);
                peers::start(&id);
                engine::await_served(self.runtime, port);
            });
        }
        samples
    }

    fn held_first_probes(&self, holder: &str, port: u16) -> Samples {
        let mut samples = Samples::default();
        for round in 0..self.rounds {
            let name = format!("joined{round}");
            samples.time(|| {
                let id = self.peers().create_in(&name, &self.images[0], holder);
                peers::start(&id);
                engine::await_served(self.runtime, port);
            });
            docker(&["rm", "--force", &self.space.name(&name)]);
        }
        samples
    }

    fn front_updates(&self) -> Option<Updated> {
        let space = Space::new()?;
        let fleet = Fleet::fronted(&space, 1, &self.images[0], HEALTH);
        Some(self.abide_updates(&fleet))
    }

    fn abide_updates(&self, fleet: &Fleet) -> Updated {
        let running = fleet.environments.last().unwrap();
        let socket = abide::daemon::socket_path(&fleet.desired_state);
        let target = format!("/api/v1/environments/{}/set", running.name);
        self.update(running.port, |image| {
            let body = serde_json::json!({ "image": image }).to_string();
            http::post(&socket, &target, &body).unwrap();
        })
    }

    fn script_updates(&self) -> Updated {
        let port = free_port();
        self.peers().run("scripted", &self.images[0], port, "always");
        self.update(port, |image| {
            docker(&["rm", "--force", &self.space.name("scripted")]);
            self.peers().run("scripted", image, port, "always");
        })
    }

    fn swarm_updates(&self, swarm: &mut Swarm) -> Updated {
        let service: Service = swarm.serve(self.space, "updated", &self.images[0]);
        self.update(service.port, |image| service.update(image))
    }

    /// Deploys the two images in turn with `deploy`.
    fn update(&self, port: u16, deploy: impl Fn(&str)) -> Updated {
        engine::await_served(self.runtime, port);
        let mut updated = Updated::default();
        for round in 1..=self.rounds {
            let wanted = round % PAGES.len();
            let steady = Steady::start(port);
            // The old version answers a few times first.
            std::thread::sleep(SETTLE);
            let asked = Instant::now();
            deploy(&self.images[wanted]);
            engine::await_page(self.runtime, port, PAGES[wanted]);
            std::thread::sleep(SETTLE);
            let taken_over = steady.taken_over_by(self.runtime, PAGES[wanted]);
            updated.took.add(taken_over.at - asked);
            updated.gap.add(taken_over.gap);
            updated.failed += taken_over.failed;
        }
        updated
    }
}

/// The time for steps after an update, such as the removal of the old container, to finish.
const SETTLE: Duration = Duration::from_millis(700);

/// Starts in a persistent network namespace.
#[derive(Default)]
struct Held {
    /// One start call.
    start: Back,
    /// `kill -9`, and a start call after the event.
    on_event: Back,
}

impl Updated {
    fn row(&self, who: &str, limit: Duration, rounds: usize) -> Vec<String> {
        vec![
            who.to_owned(),
            shown(self.took.median()),
            shown(self.took.p90()),
            of(&self.took, limit),
            shown(self.gap.median()),
            shown(self.gap.p90()),
            format!("{:.1}", self.failed as f64 / rounds as f64),
        ]
    }
}

fn only_kills(back: &Back) -> Healed {
    [back.clone(), Back::default(), Back::default()]
}

fn of(samples: &Samples, limit: Duration) -> String {
    ratio(samples.median(), limit)
}

/// Median and p90; `else_` without measurements.
fn figures(samples: &Samples, else_: &str) -> [String; 2] {
    [samples.median(), samples.p90()].map(|figure| match samples.count() {
        0 => else_.to_owned(),
        _ => shown(figure),
    })
}
