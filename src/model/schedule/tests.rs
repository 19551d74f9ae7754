//! Schedules across changes of the clock.

use std::time::Duration;

use proptest::prelude::*;

use super::*;

fn schedule(text: &str, zone: &str) -> Schedule {
    Schedule::new(text, Zone::named(zone).unwrap()).unwrap()
}

fn at(text: &str) -> Timestamp {
    Timestamp::parse(text).unwrap()
}

/// The scheduled times in (from, to].
fn times(schedule: &Schedule, from: &str, to: &str) -> Vec<String> {
    let (mut from, to) = (at(from), at(to));
    let mut found = Vec::new();
    while let Some(next) = schedule.next_after(from).filter(|next| *next <= to) {
        found.push(next.to_string().replace(":00.000Z", "Z"));
        from = next;
    }
    found
}

#[test]
fn a_time_skipped_by_dst_runs_right_after_the_gap() {
    let berlin = schedule("30 2 * * *", "Europe/Berlin");
    let found = times(&berlin, "2026-03-28T00:00:00Z", "2026-03-31T00:00:00Z");
    assert_eq!(found, ["2026-03-28T01:30Z", "2026-03-29T01:00Z", "2026-03-30T00:30Z"]);
    let often = schedule("*/20 2,3 * * *", "Europe/Berlin");
    let found = times(&often, "2026-03-29T00:00:00Z", "2026-03-29T03:00:00Z");
    assert_eq!(found, ["2026-03-29T01:00Z", "2026-03-29T01:20Z", "2026-03-29T01:40Z"], "each once");
    // Midnight does not exist on that day.
    let beirut = schedule("0 0 * * *", "Asia/Beirut");
    let found = times(&beirut, "2022-03-25T23:00:00Z", "2022-03-28T23:00:00Z");
    assert_eq!(found, ["2022-03-26T22:00Z", "2022-03-27T21:00Z", "2022-03-28T21:00Z"]);
}

#[test]
fn a_time_repeated_by_dst_counts_once() {
    let berlin = schedule("30 2 * * *", "Europe/Berlin");
    let found = times(&berlin, "2026-10-24T12:00:00Z", "2026-10-26T12:00:00Z");
    assert_eq!(found, ["2026-10-25T00:30Z", "2026-10-26T01:30Z"]);
}

#[test]
fn intervals_follow_the_elapsed_time() {
    let hourly = schedule("0 * * * *", "Europe/Berlin");
    for (from, to) in
        [("2026-03-28T22:00:00Z", "2026-03-29T04:00:00Z"), ("2026-10-24T22:00:00Z", "2026-10-25T04:00:00Z")]
    {
        assert_eq!(times(&hourly, from, to).len(), 6, "one in each hour that happens");
    }
    let quarters = schedule("*/15 * * * *", "Australia/Lord_Howe");
    let found = times(&quarters, "2026-04-04T14:00:00Z", "2026-04-04T16:00:00Z");
    assert_eq!(found.len(), 8, "a change of half an hour: {found:?}");
}

#[test]
fn a_skipped_calendar_day_is_run_after_the_gap() {
    // Samoa went from 29 to 31 December 2011.
    let apia = schedule("0 12 30 12 *", "Pacific/Apia");
    assert_eq!(apia.next_after(at("2011-12-29T00:00:00Z")), Some(at("2011-12-30T10:00:00Z")));
}

#[test]
fn day_of_month_and_day_of_week_are_combined_with_or() {
    let either = schedule("0 3 1 * MON", "UTC");
    let found = times(&either, "2026-11-29T12:00:00Z", "2026-12-08T00:00:00Z");
    assert_eq!(found, ["2026-11-30T03:00Z", "2026-12-01T03:00Z", "2026-12-07T03:00Z"]);
    let leap = schedule("0 0 29 2 *", "UTC");
    assert_eq!(leap.next_after(at("2026-01-01T00:00:00Z")), Some(at("2028-02-29T00:00:00Z")));
}

#[test]
fn an_invalid_schedule_is_reported_with_its_field() {
    let of = |text| Schedule::new(text, Zone::named("UTC").unwrap()).unwrap_err();
    assert!(of("61 3 * * *").starts_with("has a wrong minute `61`: must be 0 to 59"), "{}", of("61 3 * * *"));
    assert!(of("0 25 * * *").contains("wrong hour `25`"));
    assert!(of("0 3 32 * *").contains("wrong day of the month `32`"));
    assert!(of("0 3 * FOO *").contains("wrong month `FOO`"));
    assert!(of("0 3 * * 9").contains("wrong day of the week `9`"));
    assert!(of("0 3 30 2 *").starts_with("never comes"), "{}", of("0 3 30 2 *"));
    assert!(of("0 3 * *").contains("must be five fields"));
    assert!(of("0 0 3 * * *").contains("seconds are not supported"));
    assert!(of("0 3 * * * UTC").contains("the key `zone`"));
    assert!(of("@daily").contains("write \"0 0 * * *\""));
}

#[test]
fn a_schedule_round_trips_through_json() {
    let written = serde_json::to_string(&schedule("0  3 * * *", "Asia/Shanghai")).unwrap();
    assert_eq!(written, r#"{"schedule":"0 3 * * *","zone":"Asia/Shanghai"}"#);
    assert_eq!(serde_json::from_str::<Schedule>(&written).unwrap(), schedule("0 3 * * *", "Asia/Shanghai"));
    assert!(serde_json::from_str::<Schedule>(r#"{"schedule":"0 3 * * *","zone":"Mars"}"#).is_err());
}

const ZONES: [&str; 7] = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
    "Asia/Kathmandu",
    "America/Sao_Paulo",
    "Asia/Beirut",
];

/// 2015 to 2035, in milliseconds.
fn any_moment() -> impl Strategy<Value = Timestamp> {
    (1_420_070_400_000_u64..2_051_222_400_000).prop_map(Timestamp::from_millis)
}

proptest! {
    #[test]
    fn a_daily_schedule_runs_once_per_local_day(
        zone in 0..ZONES.len(), hour in 0..24_u8, minute in 0..60_u8, from in any_moment(),
    ) {
        let daily = schedule(&format!("{minute} {hour} * * *"), ZONES[zone]);
        let zone = daily.zone().time_zone();
        let day = |moment: Timestamp| {
            let moment = Moment::from_millisecond(i64::try_from(moment.as_millis()).unwrap()).unwrap();
            zone.to_datetime(moment).date()
        };
        let mut last = daily.next_after(from).unwrap();
        for _ in 0..100 {
            let next = daily.next_after(last).unwrap();
            prop_assert_eq!(day(last).tomorrow().unwrap(), day(next));
            last = next;
        }
    }

    #[test]
    fn intervals_follow_the_local_wall_clock(
        zone in 0..ZONES.len(), every in 1..30_u64, hours in 1..5_u64, from in any_moment(),
    ) {
        let interval = schedule(&format!("*/{every} */{hours} * * *"), ZONES[zone]);
        let zone = interval.zone().time_zone();
        let minute = from.as_millis() / 60_000 + 1;
        let scanned = (minute..minute + 24 * 60).map(|minute| Timestamp::from_millis(minute * 60_000)).find(|at| {
            let local = zone.to_datetime(Moment::from_millisecond(i64::try_from(at.as_millis()).unwrap()).unwrap());
            u64::try_from(local.minute()).unwrap() % every == 0 && u64::try_from(local.hour()).unwrap() % hours == 0
        });
        prop_assert_eq!(interval.next_after(from), scanned);
    }

    #[test]
    fn no_scheduled_time_is_skipped(
        zone in 0..ZONES.len(), hour in 0..24_u8, is_interval in any::<bool>(), from in any_moment(), share in 0.0..1.0_f64,
    ) {
        let text = if is_interval { "*/7 */2 * * *".to_owned() } else { format!("*/7 {hour} * * *") };
        let schedule = schedule(&text, ZONES[zone]);
        let next = schedule.next_after(from).unwrap();
        prop_assert!(next > from);
        let between = from.after(next.since(from).mul_f64(share).saturating_sub(Duration::from_millis(1)));
        prop_assert_eq!(schedule.next_after(between), Some(next));
    }
}
