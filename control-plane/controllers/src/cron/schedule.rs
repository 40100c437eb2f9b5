//! Schedules of CronJobs: five fields, a word like `@daily`, or `@every` with a duration, in a time
//! zone.
//! <https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/#schedule-syntax>

use std::time::Duration;

use chrono::{DateTime, TimeZone as _, Utc};
use chrono_tz::Tz;
use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use time::OffsetDateTime;

/// The words, and what they stand for.
const WORDS: [(&str, &str); 7] = [
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
    ("@monthly", "0 0 1 * *"),
    ("@weekly", "0 0 * * 0"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@hourly", "0 * * * *"),
];
const NAMES: [&str; 19] = [
    "JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC", "SUN",
    "MON", "TUE", "WED", "THU", "FRI", "SAT",
];

/// When something happens again and again.
#[derive(Debug, Clone)]
pub struct Schedule {
    pattern: Pattern,
    zone: Tz,
}

#[derive(Debug, Clone)]
enum Pattern {
    Cron(Box<Cron>),
    /// So long after the last time.
    Every(Duration),
}

/// Text that is no schedule, or no time zone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// The schedule.
    #[error("{0}")]
    Schedule(String),
    /// The time zone, which the IANA's database does not have.
    #[error("unknown time zone {0}")]
    Zone(String),
}

impl Schedule {
    /// Reads a schedule of the time zone `zone`, or else of UTC.
    ///
    /// # Errors
    /// If either is not one.
    pub fn parse(schedule: &str, zone: Option<&str>) -> Result<Self, ScheduleError> {
        let zone = match zone {
            None => Tz::UTC,
            Some(name) => name.parse().map_err(|_| ScheduleError::Zone(name.into()))?,
        };
        let schedule = schedule.trim();
        if let Some(every) = schedule.strip_prefix("@every ") {
            let interval = duration(every).ok_or_else(|| {
                ScheduleError::Schedule(format!("failed to parse duration {schedule}"))
            })?;
            return Ok(Self { pattern: Pattern::Every(interval), zone });
        }
        let fields = match WORDS.iter().find(|(word, _)| *word == schedule) {
            Some((_, fields)) => fields,
            None if schedule.starts_with('@') => {
                let why = format!("unrecognized descriptor: {schedule}");
                return Err(ScheduleError::Schedule(why));
            }
            None => schedule,
        };
        standard(fields)?;
        let parser =
            CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
        let cron =
            parser.parse(fields).map_err(|error| ScheduleError::Schedule(error.to_string()))?;
        Ok(Self { pattern: Pattern::Cron(Box::new(cron)), zone })
    }

    /// The first time after `time`; `None` if there is none in the years that are counted.
    #[must_use]
    pub fn next(&self, time: OffsetDateTime) -> Option<OffsetDateTime> {
        match &self.pattern {
            Pattern::Cron(cron) => {
                back(&cron.find_next_occurrence(&self.local(time)?, false).ok()?)
            }
            Pattern::Every(interval) => Some(time.replace_nanosecond(0).ok()? + *interval),
        }
    }

    /// The last time that is not after `now`, if there is one after `since`.
    #[must_use]
    pub fn last(&self, since: OffsetDateTime, now: OffsetDateTime) -> Option<OffsetDateTime> {
        let first = self.next(since).filter(|first| *first <= now)?;
        match &self.pattern {
            Pattern::Cron(cron) => {
                let last = back(&cron.find_previous_occurrence(&self.local(now)?, true).ok()?)?;
                // Where clocks are set back, the way forth and the way back may differ.
                Some(last.max(first))
            }
            Pattern::Every(interval) => {
                let length = i64::try_from(interval.as_secs()).ok()?.max(1);
                let whole = (now - first).whole_seconds() / length * length;
                Some(first + time::Duration::seconds(whole))
            }
        }
    }

    fn local(&self, time: OffsetDateTime) -> Option<DateTime<Tz>> {
        let utc = Utc.timestamp_opt(time.unix_timestamp(), time.nanosecond()).single()?;
        Some(utc.with_timezone(&self.zone))
    }

    /// `time` as RFC 3339 writes it in the schedule's zone.
    #[must_use]
    pub fn write(&self, time: OffsetDateTime) -> String {
        self.local(time).map_or_else(String::new, |local| {
            local.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
        })
    }
}

fn back(time: &DateTime<Tz>) -> Option<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp(time.timestamp()).ok()
}

/// Refuses what others know and Kubernetes does not: more or fewer fields, days like `L` or `5#2`, and
/// a seventh day of the week.
fn standard(schedule: &str) -> Result<(), ScheduleError> {
    let fields: Vec<&str> = schedule.split_whitespace().collect();
    if fields.len() != 5 {
        let why =
            format!("expected exactly 5 fields, found {}: [{}]", fields.len(), fields.join(" "));
        return Err(ScheduleError::Schedule(why));
    }
    for (index, field) in fields.iter().enumerate() {
        let refused = || ScheduleError::Schedule(format!("failed to parse field: {field}"));
        for part in field.split([',', '/', '-']) {
            let digits = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
            let named = index > 2 && NAMES.contains(&part.to_ascii_uppercase().as_str());
            if !digits && !named && part != "*" && part != "?" {
                return Err(refused());
            }
        }
        let days = field.split(',').filter_map(|range| range.split('/').next());
        if index == 4 && days.flat_map(|range| range.split('-')).any(|day| day == "7") {
            return Err(ScheduleError::Schedule(format!(
                "end of range (7) above maximum (6): {field}"
            )));
        }
    }
    Ok(())
}

/// Reads a duration as Go writes it, in whole seconds; one at least.
fn duration(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    let mut seconds = 0.0_f64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, unit) = rest.split_at(digits);
        let end = unit.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(unit.len());
        let length = match &unit[..end] {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 0.001,
            "us" | "µs" => 0.000_001,
            "ns" => 0.000_000_001,
            _ => return None,
        };
        seconds += number.parse::<f64>().ok()? * length;
        rest = &unit[end..];
    }
    // A century is more than anybody waits for.
    (!text.trim().is_empty() && seconds < 3_200_000_000.0)
        .then(|| Duration::try_from_secs_f64(seconds.trunc().max(1.0)).ok())?
}

#[cfg(test)]
mod tests {
    use bulkhead_client::object;

    use super::*;

    fn at(text: &str) -> OffsetDateTime {
        object::parse_time(text).unwrap()
    }

    fn next(schedule: &str, zone: Option<&str>, after: &str) -> String {
        let schedule = Schedule::parse(schedule, zone).unwrap();
        schedule.next(at(after)).map_or_else(|| "never".into(), object::timestamp)
    }

    #[test]
    fn the_next_time() {
        for (schedule, after, expected) in [
            ("* * * * *", "2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z"),
            ("*/15 8-10 * * *", "2026-01-01T10:50:00Z", "2026-01-02T08:00:00Z"),
            ("0 0 29 2 ?", "2026-01-01T00:00:00Z", "2028-02-29T00:00:00Z"),
            // Of two kinds of days either will do.
            ("0 0 13 * FRI", "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"),
            ("@hourly", "2026-01-01T00:30:00Z", "2026-01-01T01:00:00Z"),
            ("@midnight", "2026-01-01T00:30:00Z", "2026-01-02T00:00:00Z"),
            ("@every 1h30m", "2026-01-01T00:30:05Z", "2026-01-01T02:00:05Z"),
            ("0 0 31 2 *", "2026-01-01T00:00:00Z", "never"),
        ] {
            assert_eq!(next(schedule, None, after), expected, "{schedule}");
        }
        let zone = Some("Asia/Tokyo");
        assert_eq!(next("0 9 * * *", zone, "2026-01-01T00:30:00Z"), "2026-01-02T00:00:00Z");
        let tokyo = Schedule::parse("0 9 * * *", zone).unwrap();
        assert_eq!(tokyo.write(at("2026-01-02T00:00:00Z")), "2026-01-02T09:00:00+09:00");
    }

    #[test]
    fn the_last_time_that_was_missed() {
        let last = |schedule: &str, since: &str, now: &str| {
            let schedule = Schedule::parse(schedule, None).unwrap();
            schedule.last(at(since), at(now)).map(object::timestamp)
        };
        let since = "2026-01-01T00:00:00Z";
        assert_eq!(last("0 * * * *", since, "2026-01-01T00:59:59Z"), None);
        let expected = Some("2026-01-01T01:00:00Z".to_owned());
        assert_eq!(last("0 * * * *", since, "2026-01-01T01:00:00Z"), expected);
        let later = "2026-03-01T01:10:00Z";
        assert_eq!(last("0 * * * *", since, later), Some("2026-03-01T01:00:00Z".into()));
        assert_eq!(
            last("@every 7m", since, "2026-01-01T00:30:00Z"),
            Some("2026-01-01T00:28:00Z".into())
        );
    }

    #[test]
    fn what_is_no_schedule() {
        for wrong in [
            "",
            "* * * *",
            "* * * * * *",
            "60 * * * *",
            "* * L * *",
            "* * * * 5#2",
            "* * * * 7",
            "* * * * 5-7",
            "JAN * * * *",
            "a * * * *",
            "@often",
            "@every",
            "@every 5",
            "@every x",
            "1,,2 * * * *",
        ] {
            assert!(Schedule::parse(wrong, None).is_err(), "{wrong}");
        }
        let zone = Schedule::parse("* * * * *", Some("Mars/Base")).unwrap_err();
        assert_eq!(zone.to_string(), "unknown time zone Mars/Base");
    }
}
