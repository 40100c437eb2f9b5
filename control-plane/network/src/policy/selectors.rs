//! The selectors and named ports that policies have, each once whoever has it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;

use super::spec::{Namespaces, PodSelector, PortName};

/// What numbers a kind of things.
#[derive(Debug)]
struct Numbered<T, U> {
    numbers: HashMap<T, u32>,
    things: BTreeMap<u32, (T, U)>,
    next: u32,
}

impl<T, U> Default for Numbered<T, U> {
    fn default() -> Self {
        Self { numbers: HashMap::new(), things: BTreeMap::new(), next: 0 }
    }
}

impl<T: Clone + Eq + Hash, U: Default> Numbered<T, U> {
    /// The number of `thing`, and what is kept with it; whether it is new.
    fn take(&mut self, thing: &T) -> (u32, &mut U, bool) {
        let new = !self.numbers.contains_key(thing);
        let next = &mut self.next;
        let number = *self.numbers.entry(thing.clone()).or_insert_with(|| {
            *next += 1;
            *next
        });
        let (_, kept) = self.things.entry(number).or_insert_with(|| (thing.clone(), U::default()));
        (number, kept, new)
    }

    fn number(&self, thing: &T) -> u32 {
        self.numbers.get(thing).copied().unwrap_or_default()
    }

    fn forget(&mut self, number: u32) -> Option<T> {
        let (thing, _) = self.things.remove(&number)?;
        self.numbers.remove(&thing);
        Some(thing)
    }
}

/// A policy, by its number.
pub(super) type PolicyId = u32;

/// What a selector is for.
#[derive(Debug, Default)]
pub(super) struct Uses {
    /// The policies that are about its pods.
    pub(super) subjects: BTreeSet<PolicyId>,
    /// How many rules have it as a peer.
    pub(super) peers: usize,
}

/// Selectors of pods.
#[derive(Debug, Default)]
pub(super) struct Selectors {
    all: Numbered<PodSelector, Uses>,
    /// Those of one namespace, by its name.
    local: HashMap<String, BTreeSet<u32>>,
    wide: BTreeSet<u32>,
}

impl Selectors {
    /// Notes a use; the selector's number if it is new.
    pub(super) fn take(
        &mut self,
        selector: &PodSelector,
        note: impl FnOnce(&mut Uses),
    ) -> Option<u32> {
        let (number, uses, new) = self.all.take(selector);
        note(uses);
        if !new {
            return None;
        }
        match &selector.namespaces {
            Namespaces::One(name) => self.local.entry(name.clone()).or_default().insert(number),
            Namespaces::Selected(_) => self.wide.insert(number),
        };
        Some(number)
    }

    /// Notes the end of a use; the selector's number if it was the last.
    pub(super) fn leave(
        &mut self,
        selector: &PodSelector,
        note: impl FnOnce(&mut Uses),
    ) -> Option<u32> {
        let number = self.number(selector);
        let (_, uses) = self.all.things.get_mut(&number)?;
        note(uses);
        if uses.peers > 0 || !uses.subjects.is_empty() {
            return None;
        }
        self.all.forget(number);
        self.wide.remove(&number);
        if let Namespaces::One(name) = &selector.namespaces
            && let Some(local) = self.local.get_mut(name)
        {
            local.remove(&number);
            if local.is_empty() {
                self.local.remove(name);
            }
        }
        Some(number)
    }

    pub(super) fn number(&self, selector: &PodSelector) -> u32 {
        self.all.number(selector)
    }

    pub(super) fn uses(&self, number: u32) -> Option<&Uses> {
        Some(&self.all.things.get(&number)?.1)
    }

    /// Those that can select a pod of a namespace.
    pub(super) fn of<'a>(
        &'a self,
        namespace: &str,
    ) -> impl Iterator<Item = (u32, &'a PodSelector)> + use<'a> {
        let local = self.local.get(namespace).into_iter().flatten();
        local.chain(&self.wide).filter_map(|number| {
            let (selector, _) = self.all.things.get(number)?;
            Some((*number, selector))
        })
    }

    /// Those of rules' peers.
    pub(super) fn peers(&self) -> impl Iterator<Item = u32> {
        self.all.things.iter().filter(|(_, (_, uses))| uses.peers > 0).map(|(number, _)| *number)
    }
}

/// Named ports.
#[derive(Debug, Default)]
pub(super) struct PortNames(Numbered<PortName, usize>);

impl PortNames {
    /// Notes a use; whether it is the first.
    pub(super) fn take(&mut self, name: &PortName) -> bool {
        let (_, uses, new) = self.0.take(name);
        *uses += 1;
        new
    }

    /// Notes the end of a use; whether it was the last.
    pub(super) fn leave(&mut self, name: &PortName) -> bool {
        let number = self.number(name);
        let Some((_, uses)) = self.0.things.get_mut(&number) else { return false };
        *uses -= 1;
        *uses == 0 && self.0.forget(number).is_some()
    }

    /// 0 if nobody uses it.
    pub(super) fn number(&self, name: &PortName) -> u32 {
        self.0.number(name)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = u32> {
        self.0.things.keys().copied()
    }
}
