//! What the project has set itself, and what a run says of it.

use serde_json::{Value, json};

use super::Http::{One, Two};
use super::contender::Kind::{self, Envoy, Locum, LocumOpaque, LocumUnsearched, Tunnel};
use super::report::{Rounds, Table, number, print_aligned};
use super::scenario::{connections, growth, memory, requests, streams};

/// A bound on a figure.
pub(crate) struct Target {
    what: String,
    /// None when the run had no such figure.
    value: Option<f64>,
    most: f64,
}

impl Target {
    pub(crate) fn json(&self) -> Value {
        json!({ "target": self.what, "value": self.value, "at most": self.most, "met": self.met() })
    }

    fn met(&self) -> Option<bool> {
        self.value.map(|value| value <= self.most)
    }
}

/// Prints them as one more table.
pub(crate) fn print(targets: &[Target]) {
    let mut lines = vec![["target", "measured", "at most", "met"].map(str::to_owned).to_vec()];
    for target in targets {
        let met = match target.met() {
            Some(true) => "yes",
            Some(false) => "NO",
            None => "not measured",
        };
        let most = format!("{}", target.most);
        lines.push(vec![target.what.clone(), number(target.value, 2), most, met.to_owned()]);
    }
    print_aligned(&lines);
}

/// All targets, each with what these tables say of it.
pub(crate) fn of(tables: &[Table]) -> Vec<Target> {
    let run = Run(tables);
    let mut all = Vec::new();
    run.requests(&mut all);
    run.connections(&mut all);
    run.streams(&mut all);
    run.memory(&mut all);
    run.growth(&mut all);
    all
}

/// The tables of a run.
struct Run<'a>(&'a [Table]);

/// A column of a table.
type Column<'a> = (&'a str, &'a str);

impl Run<'_> {
    fn rounds(&self, (title, column): Column<'_>, row: &str) -> Option<Rounds> {
        self.0.iter().find(|table| table.title() == title)?.rounds(row, column)
    }

    fn median(&self, column: Column<'_>, row: &str) -> Option<f64> {
        self.rounds(column, row)?.median()
    }

    fn ratio(&self, column: Column<'_>, own: Kind, other: Kind) -> Option<f64> {
        self.relation(column, own, other, |own, other| own / other)
    }

    fn above(&self, column: Column<'_>, own: Kind, other: Kind) -> Option<f64> {
        self.relation(column, own, other, |own, other| own - other)
    }

    fn relation(
        &self,
        column: Column<'_>,
        own: Kind,
        other: Kind,
        relation: fn(f64, f64) -> f64,
    ) -> Option<f64> {
        let of = |kind: Kind| self.rounds(column, &kind.to_string());
        of(own)?.against(&of(other)?, relation)
    }

    fn requests(&self, all: &mut Vec<Target>) {
        const CPU: &str = "CPU us/request";
        for many in [32, 256] {
            let title = requests::title(One, many);
            let column = (&*title, CPU);
            all.push(Target {
                what: format!("CPU per request, {many} connections, to the plain tunnel's"),
                value: self.ratio(column, Locum, Tunnel),
                most: 1.8,
            });
            all.push(Target {
                what: format!("CPU per request, {many} connections, to Envoy's"),
                value: self.ratio(column, Locum, Envoy),
                most: 0.45,
            });
        }
        for many in [1, 32, 256] {
            let titles = [Two, One].map(|http| requests::title(http, many));
            let of = |title: &str| self.rounds((title, CPU), &Locum.to_string());
            let pair = of(&titles[0]).zip(of(&titles[1]));
            all.push(Target {
                what: format!("CPU per request, HTTP/2 to own HTTP/1.1, {many} connections"),
                value: pair.and_then(|(two, one)| two.against(&one, |two, one| two / one)),
                most: 1.3,
            });
        }
        all.push(Target {
            what: "p50 with 1 connection, us above the plain tunnel's".to_owned(),
            value: self.above((&requests::title(One, 1), "p50 us"), Locum, Tunnel),
            most: 25.0,
        });
        all.push(Target {
            what: "p99 with 256 connections, to Envoy's".to_owned(),
            value: self.ratio((&requests::title(One, 256), "p99 us"), Locum, Envoy),
            most: 0.5,
        });
    }

    fn connections(&self, all: &mut Vec<Target>) {
        let cpu = (connections::CONNECT, "CPU us/connection");
        all.push(Target {
            what: "CPU per new connection, to the plain tunnel's".to_owned(),
            value: self.ratio(cpu, Locum, Tunnel),
            most: 1.3,
        });
        all.push(Target {
            what: "CPU per new connection, to Envoy's".to_owned(),
            value: self.ratio(cpu, Locum, Envoy),
            most: 0.5,
        });
        all.push(Target {
            what: "first request to a cold host, p50, to the plain tunnel's".to_owned(),
            value: self.ratio((connections::COLD, "p50 us"), Locum, Tunnel),
            most: 1.6,
        });
    }

    fn streams(&self, all: &mut Vec<Target>) {
        for (name, title) in [("down", streams::DOWN), ("up", streams::UP)] {
            let cpu = (title, "CPU ms/GiB");
            all.push(Target {
                what: format!("CPU for 1 GiB {name}, to Envoy's"),
                value: self.ratio(cpu, Locum, Envoy),
                most: 0.8,
            });
            all.push(Target {
                what: format!("CPU for 1 GiB {name}, opaque, to the plain tunnel's"),
                value: self.ratio(cpu, LocumOpaque, Tunnel),
                most: 1.0,
            });
        }
        all.push(Target {
            what: "throughput of 1 GiB down unsearched, to that searched".to_owned(),
            value: self.ratio((streams::DOWN, "MiB/s"), LocumUnsearched, Locum),
            most: 1.11,
        });
        for quantile in ["p50", "p99"] {
            let column = format!("{quantile} us");
            all.push(Target {
                what: format!("{quantile} of an event's delay, us above that unsearched"),
                value: self.above((streams::EVENTS, &column), Locum, LocumUnsearched),
                most: 100.0,
            });
        }
        all.push(Target {
            what: "p99 of an event's delay, us above the plain tunnel's".to_owned(),
            value: self.above((streams::EVENTS, "p99 us"), Locum, Tunnel),
            most: 150.0,
        });
    }

    fn memory(&self, all: &mut Vec<Target>) {
        let locum = Locum.to_string();
        for tunnels in [1_000, 10_000].map(memory::attainable) {
            let title = memory::title(tunnels);
            if tunnels == 1_000 {
                all.push(Target {
                    what: "memory at rest, MiB".to_owned(),
                    value: self.median((&title, "at rest MiB"), &locum),
                    most: 20.0,
                });
            }
            all.push(Target {
                what: format!("memory of an idle tunnel of {tunnels}, KiB"),
                value: self.median((&title, "KiB/idle tunnel"), &locum),
                most: 24.0,
            });
        }
    }

    fn growth(&self, all: &mut Vec<Target>) {
        let (few, many) = (growth::row(10), growth::row(100_000));
        let of = |row: &str| self.rounds((growth::COST, "CPU us/request"), row);
        let pair = of(&many).zip(of(&few));
        all.push(Target {
            what: "CPU per request with 100,000 rules, agents, credentials, to that with 10".into(),
            value: pair.and_then(|(many, few)| many.against(&few, |many, few| many / few)),
            most: 1.1,
        });
        all.push(Target {
            what: "a changed rule of 100,000 in force, ms".to_owned(),
            value: self.median((growth::RULE, "rule in force ms"), &many),
            most: 1_000.0,
        });
        all.push(Target {
            what: "an agent added to 100,000 in force after its command, ms".to_owned(),
            value: self.median((growth::AGENT, "agent in force ms"), &many),
            most: 1_000.0,
        });
        for (what, title) in
            [("a rule is changed", growth::RULE), ("an agent is added", growth::AGENT)]
        {
            let of = |column| self.rounds((title, column), &many);
            let pair = of("p99 us meanwhile").zip(of("p99 us before"));
            all.push(Target {
                what: format!("p99 while {what}, with 100,000, to that before"),
                value: pair.and_then(|(then, before)| then.against(&before, |a, b| a / b)),
                most: 2.0,
            });
        }
    }
}
