//! How a probe interprets the answers of the engine and of programs.

use super::*;

fn vitals(health: EngineHealth, failures: u32, output: Option<&str>) -> Vitals {
    let check = HealthCheck {
        interval: Duration::from_secs(30),
        timeout: Duration::from_secs(30),
        start_period: Duration::ZERO,
        retries: 3,
    };
    let output = output.map(str::to_owned);
    Vitals { health, failures, output, check: Some(check), ..Vitals::default() }
}

#[test]
fn an_undecided_healthcheck_is_inconclusive_and_its_progress_reported() {
    let reason = |answer| match answer {
        ProbeResult::Unknown(Some(why)) => why,
        other => panic!("{other:?}"),
    };
    let unasked = reason(of_vitals(&vitals(EngineHealth::Starting, 0, None)));
    assert_eq!(unasked, "its HEALTHCHECK, which runs every 30s, has no result yet");
    let failing = reason(of_vitals(&vitals(EngineHealth::Starting, 2, Some("one\ntwo\n\n"))));
    assert_eq!(failing, "its HEALTHCHECK, which runs every 30s, failed 2 of 3 times: one | two");
}

#[test]
fn a_decided_healthcheck_is_a_hit_or_a_miss() {
    assert_eq!(of_vitals(&vitals(EngineHealth::Healthy, 0, None)), ProbeResult::Good);
    let bad = of_vitals(&vitals(EngineHealth::Unhealthy, 3, Some("no database")));
    let message = "its HEALTHCHECK, which runs every 30s, failed 3 times in a row: no database";
    assert_eq!(bad, ProbeResult::Miss(message.to_owned()));
}

#[test]
fn an_image_without_a_healthcheck_never_passes_its_healthcheck() {
    for (is_turned_off, words) in [(false, "has no HEALTHCHECK"), (true, "has its HEALTHCHECK turned off")] {
        let answer = of_vitals(&Vitals { is_turned_off, ..Vitals::default() });
        assert!(matches!(&answer, ProbeResult::Miss(message) if message.contains(words)), "{answer:?}");
    }
}
