//! The part of nft's language that policies are written in, and packets sent through it. As strict
//! as the kernel: what is not there cannot be deleted, nor what is in use.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use bulkhead_network::policy::Transaction;

use super::model::Packet;

#[derive(Debug, Default)]
pub struct Ruleset(BTreeMap<String, Table>);

#[derive(Debug, Default)]
struct Table {
    chains: BTreeMap<String, Vec<String>>,
    /// Base chains: hook and name. All of them have their say, whatever their order.
    hooks: BTreeSet<(String, String)>,
    /// Elements, and the values of a map's.
    sets: BTreeMap<String, BTreeMap<String, String>>,
}

impl Ruleset {
    pub fn run(&mut self, transaction: &Transaction) {
        for line in transaction.made.lines().chain(transaction.script.lines()) {
            self.line(line);
        }
        if transaction.whole {
            self.0.retain(|name, _| *name == format!("policy-{}", transaction.generation));
        }
        self.0.values().for_each(Table::check);
    }

    fn line(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        let [verb, kind, "ip", table, rest @ ..] = words.as_slice() else { panic!("{line}") };
        if rest.is_empty() {
            assert_eq!((*verb, *kind), ("add", "table"), "{line}");
            assert!(self.0.insert((*table).to_owned(), Table::default()).is_none(), "{line}");
            return;
        }
        let table = self.0.get_mut(*table).unwrap_or_else(|| panic!("no table: {line}"));
        table.line(verb, kind, rest, line);
    }

    /// Whether a connection's first packet comes in, and through a hook behind that.
    pub fn lets_through(&self, hook: &str, packet: &Packet) -> bool {
        self.0.values().all(|table| {
            let mut hooks = table.hooks.iter().filter(|(at, _)| at == "prerouting" || at == hook);
            let mark = Cell::new(0);
            hooks.all(|(_, chain)| table.verdict(chain, packet, &mark) != Some(false))
        })
    }
}

fn braces(line: &str) -> &str {
    line.split_once("{ ").unwrap().1.strip_suffix(" }").unwrap()
}

impl Table {
    fn line(&mut self, verb: &str, kind: &str, rest: &[&str], line: &str) {
        let name = rest[0].to_owned();
        match (verb, kind) {
            ("add", "set" | "map") => {
                assert!(self.sets.insert(name, BTreeMap::new()).is_none(), "{line}");
            }
            ("add", "chain") => {
                if let ["{", "type", "filter", "hook", hook, ..] = rest[1..] {
                    self.hooks.insert((hook.into(), name.clone()));
                }
                assert!(self.chains.insert(name, Vec::new()).is_none(), "{line}");
            }
            ("add", "rule") => self.chains.get_mut(&name).expect(line).push(rest[1..].join(" ")),
            ("flush", "chain") => self.chains.get_mut(&name).expect(line).clear(),
            ("delete", "chain") => {
                let rules = self.chains.remove(&name).expect(line);
                assert!(rules.is_empty(), "{line}: it has rules");
                self.check();
            }
            ("delete", "set") => {
                self.sets.remove(&name).expect(line);
                self.check();
            }
            ("add", "element") => {
                let set = self.sets.get_mut(&name).expect(line);
                for element in braces(line).split(", ") {
                    let (key, value) = element.split_once(" : ").unwrap_or((element, ""));
                    assert!(set.insert(key.into(), value.into()).is_none(), "{element}: {line}");
                }
            }
            ("delete", "element") => {
                let set = self.sets.get_mut(&name).expect(line);
                for key in braces(line).split(", ") {
                    set.remove(key).unwrap_or_else(|| panic!("{key} is not there: {line}"));
                }
            }
            _ => panic!("{line}"),
        }
    }

    /// That everything leads somewhere.
    fn check(&self) {
        let verdicts = self.sets.values().flat_map(BTreeMap::values).filter(|v| !v.is_empty());
        for rule in self.chains.values().flatten().chain(verdicts) {
            let words: Vec<&str> = rule.split(' ').collect();
            for pair in words.windows(2) {
                if let ["jump" | "goto", chain] = pair {
                    assert!(self.chains.contains_key(*chain), "{rule} leads nowhere");
                }
            }
            for set in words.iter().filter_map(|word| word.strip_prefix('@')) {
                assert!(self.sets.contains_key(set), "{rule} looks nowhere");
            }
        }
    }

    /// True to accept, false to reject, none to go on.
    fn verdict(&self, chain: &str, packet: &Packet, mark: &Cell<u32>) -> Option<bool> {
        self.chains[chain].iter().find_map(|rule| self.rule(rule, packet, mark))
    }

    fn rule(&self, rule: &str, packet: &Packet, mark: &Cell<u32>) -> Option<bool> {
        let mut words: Vec<&str> = rule.split(' ').collect();
        loop {
            let field = |name: &str| match name {
                "saddr" => packet.from.to_string(),
                "daddr" => packet.to.to_string(),
                other => panic!("{other} in {rule}"),
            };
            let used = match words.as_slice() {
                ["accept"] => return Some(true),
                ["reject", ..] => return Some(false),
                ["jump", chain] => return self.verdict(chain, packet, mark),
                // Only first packets are sent here.
                ["ct", "state", "established,related", ..] => return None,
                ["ct", "original", "ip", "daddr", ip, ..] => {
                    (*ip == packet.to.to_string()).then_some(5)?
                }
                ["ip", name, "!=", ip, ..] => (*ip != field(name)).then_some(4)?,
                ["ip", name, "vmap", map] => {
                    let verdict = self.sets[&map[1..]].get(&field(name))?;
                    return self.verdict(verdict.strip_prefix("goto ").unwrap(), packet, mark);
                }
                ["ip", "saddr", ".", "ip", "daddr", set, ..] => {
                    let key = format!("{} . {}", packet.from, packet.to);
                    self.sets[&set[1..]].contains_key(&key).then_some(6)?
                }
                ["ip", "daddr", ".", protocol, "dport", set, ..] => {
                    let key = format!("{} . {}", packet.to, packet.port);
                    let has = self.sets[&set[1..]].contains_key(&key);
                    (has && *protocol == packet.protocol).then_some(6)?
                }
                ["ip", name, set, ..] if set.starts_with('@') => {
                    self.sets[&set[1..]].contains_key(&field(name)).then_some(3)?
                }
                ["ip", name, ..] => {
                    let bits = |text: &str| text.parse::<Ipv4Addr>().unwrap().to_bits();
                    let value = bits(&field(name));
                    2 + within(&words[2..], value, bits)?
                }
                ["meta", "mark", "set", value] => {
                    mark.set(value.parse().unwrap());
                    return None;
                }
                ["meta", "mark", value, ..] => (mark.get().to_string() == *value).then_some(3)?,
                ["meta", "l4proto", protocol, ..] => (*protocol == packet.protocol).then_some(3)?,
                [protocol, "dport", ..] => {
                    let length =
                        within(&words[2..], packet.port.into(), |text| text.parse().unwrap())?;
                    (*protocol == packet.protocol).then_some(2 + length)?
                }
                _ => panic!("{rule}"),
            };
            words.drain(..used);
        }
    }
}

/// The length of a range or an anonymous set in words, if it has the value.
fn within(words: &[&str], value: u32, number: impl Fn(&str) -> u32) -> Option<usize> {
    let (ranges, length) = match words[0] {
        "{" => {
            let end = words.iter().position(|word| *word == "}").unwrap();
            (&words[1..end], end + 1)
        }
        _ => (&words[..1], 1),
    };
    let has = ranges.iter().any(|range| {
        let range = range.trim_end_matches(',');
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        (number(first)..=number(last)).contains(&value)
    });
    has.then_some(length)
}
