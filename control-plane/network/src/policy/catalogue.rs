//! The API's objects, who has which address, and what of it the table must hold.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use bulkhead_client::object::{key, list, name, text, uid};
use serde_json::{Value, json};

use super::selectors::{PolicyId, PortNames, Selectors};
use super::spec::{Direction, Namespaces, PodSelector, Policy, PolicyError, PortName};
use super::table::{Change, Element, Placement, Set, Table, Transaction};
use crate::services::Protocol;

/// What the cluster's DNS server is known by, as if it were the pod that it is elsewhere: policies
/// name it so.
const DNS: &str = "kube-dns";

/// A pod, or what is known of it.
#[derive(Debug, Default)]
struct Pod {
    /// Its address and its node's, as long as it has them.
    addresses: Option<(Ipv4Addr, Ipv4Addr)>,
    /// What its object says, once that was seen.
    facts: Option<Facts>,
    /// The object is no more.
    gone: bool,
    /// The selectors that select it.
    selected: BTreeSet<u32>,
}

#[derive(Debug, PartialEq)]
struct Facts {
    namespace: String,
    labels: Value,
    ports: Vec<(PortName, u16)>,
    /// All its containers have ended, for good.
    ended: bool,
}

/// NetworkPolicies, Namespaces and pods of one cluster, and the table of their rules.
#[derive(Debug)]
pub struct Catalogue {
    /// Their labels, by name.
    namespaces: BTreeMap<String, Value>,
    /// By uid.
    pods: BTreeMap<Arc<str>, Pod>,
    in_namespace: BTreeMap<String, BTreeSet<Arc<str>>>,
    owners: BTreeMap<Ipv4Addr, Arc<str>>,
    /// By namespace and name.
    ids: BTreeMap<String, PolicyId>,
    policies: BTreeMap<PolicyId, Policy>,
    next: PolicyId,
    selectors: Selectors,
    port_names: PortNames,
    /// Pods and policies of which something has changed since the table was last brought up.
    touched: BTreeSet<Arc<str>>,
    rewritten: BTreeSet<PolicyId>,
    /// Addresses whose pods have gone since then.
    released: BTreeSet<Ipv4Addr>,
    dns: Ipv4Addr,
    table: Table,
}

impl Catalogue {
    /// Nothing yet, of a cluster whose DNS server is asked at `dns`.
    #[must_use]
    pub fn new(dns: Ipv4Addr) -> Self {
        let mut this = Self {
            namespaces: BTreeMap::new(),
            pods: BTreeMap::new(),
            in_namespace: BTreeMap::new(),
            owners: BTreeMap::new(),
            ids: BTreeMap::new(),
            policies: BTreeMap::new(),
            next: 0,
            selectors: Selectors::default(),
            port_names: PortNames::default(),
            touched: BTreeSet::new(),
            rewritten: BTreeSet::new(),
            released: BTreeSet::new(),
            dns,
            table: Table::new(0, dns),
        };
        this.set_pod(&json!({
            "metadata": {"uid": DNS, "namespace": "kube-system", "labels": {"k8s-app": DNS}},
            "spec": {"containers": [{"ports": [
                {"name": "dns", "containerPort": 53, "protocol": "UDP"},
                {"name": "dns-tcp", "containerPort": 53, "protocol": "TCP"},
            ]}]},
        }));
        this.set_address(DNS, dns, dns);
        this
    }

    /// A `v1.Namespace` is, or is now, like this.
    pub fn set_namespace(&mut self, object: &Value) {
        let labels = object["metadata"]["labels"].clone();
        if self.namespaces.insert(name(object).to_owned(), labels.clone()) != Some(labels) {
            self.reselect_all(name(object));
        }
    }

    /// A Namespace is gone.
    pub fn remove_namespace(&mut self, object: &Value) {
        if self.namespaces.remove(name(object)).is_some() {
            self.reselect_all(name(object));
        }
    }

    /// Takes out every Namespace that is not among all the Namespaces there are.
    pub fn retain_namespaces(&mut self, there: &[Arc<Value>]) {
        let there: BTreeSet<&str> = there.iter().map(|object| name(object)).collect();
        let gone = self.namespaces.extract_if(.., |name, _| !there.contains(name.as_str()));
        for (name, _) in gone.collect::<Vec<_>>() {
            self.reselect_all(&name);
        }
    }

    /// A `v1.Pod` is, or is now, like this.
    pub fn set_pod(&mut self, object: &Value) {
        let (uid, facts) = (Arc::from(uid(object)), facts(object));
        let pod = self.pods.entry(Arc::clone(&uid)).or_default();
        pod.gone = false;
        if pod.facts.as_ref() == Some(&facts) {
            return;
        }
        let namespace = facts.namespace.clone();
        self.in_namespace.entry(namespace).or_default().insert(Arc::clone(&uid));
        pod.facts = Some(facts);
        self.reselect(&uid);
        self.touched.insert(uid);
    }

    /// A pod's object is gone. What it says is true for as long as the pod has its address.
    pub fn remove_pod(&mut self, object: &Value) {
        self.lose(uid(object));
    }

    /// Takes out every pod that is not among all the pods there are.
    pub fn retain_pods(&mut self, there: &[Arc<Value>]) {
        let there: BTreeSet<&str> = there.iter().map(|object| uid(object)).collect();
        let gone = |uid: &&Arc<str>| !there.contains(&***uid) && ***uid != *DNS;
        for uid in self.pods.keys().filter(gone).cloned().collect::<Vec<_>>() {
            self.lose(&uid);
        }
    }

    /// A pod has this address from now on, and its node that. Whoever had it has it no more.
    ///
    /// Until its object is known, the pod reaches nobody and nobody reaches it.
    pub fn set_address(&mut self, uid: &str, address: Ipv4Addr, node: Ipv4Addr) {
        let uid: Arc<str> = Arc::from(uid);
        let before = self.pods.get(&uid).and_then(|pod| pod.addresses);
        if before == Some((address, node)) {
            return;
        }
        self.vacate(&uid);
        if let Some(owner) = self.owners.get(&address).cloned() {
            self.release(&owner);
        }
        self.owners.insert(address, Arc::clone(&uid));
        self.pods.entry(Arc::clone(&uid)).or_default().addresses = Some((address, node));
        self.touched.insert(uid);
    }

    /// A pod has no address any more.
    pub fn release(&mut self, uid: &str) {
        self.vacate(uid);
        if self.pods.get(uid).is_some_and(|pod| pod.gone || pod.facts.is_none()) {
            self.forget(uid);
        }
    }

    /// A `networking.k8s.io/v1.NetworkPolicy` is, or is now, like this.
    ///
    /// # Errors
    /// If it cannot be enforced; what was known of it is true still.
    pub fn set_policy(&mut self, object: &Value) -> Result<(), PolicyError> {
        let key = key(object);
        let policy =
            Policy::read(object).map_err(|source| PolicyError { policy: key.clone(), source })?;
        let id = *self.ids.entry(key).or_insert_with(|| {
            self.next += 1;
            self.next
        });
        if self.policies.get(&id) != Some(&policy) {
            self.exchange(id, Some(policy));
        }
        Ok(())
    }

    /// A NetworkPolicy is gone.
    pub fn remove_policy(&mut self, object: &Value) {
        self.drop_policy(&key(object));
    }

    /// Takes out every NetworkPolicy that is not among all the NetworkPolicies there are.
    pub fn retain_policies(&mut self, there: &[Arc<Value>]) {
        let there: BTreeSet<String> = there.iter().map(|object| key(object)).collect();
        let gone: Vec<_> = self.ids.keys().filter(|key| !there.contains(*key)).cloned().collect();
        gone.iter().for_each(|key| self.drop_policy(key));
    }

    /// What has changed since it was last asked for, of the table that [`Catalogue::replace`] made.
    pub fn changes(&mut self) -> Transaction {
        let mut change = Change::default();
        for id in std::mem::take(&mut self.rewritten) {
            let policy = self.policies.get(&id);
            for direction in Direction::ALL {
                let rules = policy.and_then(|policy| policy.rules.get(&direction));
                change.chains.insert((id, direction), rules.map(|_| self.lines(id, direction)));
            }
        }
        for uid in std::mem::take(&mut self.touched) {
            let placement = self.pods.get(&uid).map(|pod| self.placement(pod)).unwrap_or_default();
            change.placements.push((uid, placement));
        }
        let sets = self.selectors.peers().map(Set::Pods);
        change.sets = sets.chain(self.port_names.all().map(Set::Ports)).collect();
        Transaction { released: std::mem::take(&mut self.released), ..self.table.change(change) }
    }

    /// All of it, as a table of this generation, in place of whatever tables there are.
    pub fn replace(&mut self, generation: u64) -> Transaction {
        self.table = Table::new(generation, self.dns);
        self.touched = self.pods.keys().cloned().collect();
        self.rewritten = self.policies.keys().copied().collect();
        Transaction { whole: true, ..self.changes() }
    }

    fn vacate(&mut self, uid: &str) {
        let Some(pod) = self.pods.get_mut(uid) else { return };
        let Some((address, _)) = pod.addresses.take() else { return };
        self.owners.remove(&address);
        self.released.insert(address);
        self.touched.insert(Arc::from(uid));
    }

    fn lose(&mut self, uid: &str) {
        let Some(pod) = self.pods.get_mut(uid) else { return };
        pod.gone = true;
        if pod.addresses.is_none() {
            self.forget(uid);
        }
    }

    fn forget(&mut self, uid: &str) {
        let Some(pod) = self.pods.remove(uid) else { return };
        if let Some(facts) = pod.facts
            && let Some(there) = self.in_namespace.get_mut(&facts.namespace)
        {
            there.remove(uid);
            if there.is_empty() {
                self.in_namespace.remove(&facts.namespace);
            }
        }
    }

    fn reselect_all(&mut self, namespace: &str) {
        for uid in self.in_namespace.get(namespace).cloned().unwrap_or_default() {
            self.reselect(&uid);
        }
    }

    /// Finds out anew which selectors select a pod.
    fn reselect(&mut self, uid: &Arc<str>) {
        let Some(pod) = self.pods.get_mut(uid) else { return };
        let Some(facts) = &pod.facts else { return };
        let selected = self
            .selectors
            .of(&facts.namespace)
            .filter(|(_, selector)| selects(&self.namespaces, selector, facts))
            .map(|(number, _)| number)
            .collect();
        if pod.selected != selected {
            pod.selected = selected;
            self.touched.insert(Arc::clone(uid));
        }
    }

    fn drop_policy(&mut self, key: &str) {
        if let Some(id) = self.ids.remove(key) {
            self.exchange(id, None);
        }
    }

    /// Puts a policy in the place of what has its number.
    fn exchange(&mut self, id: PolicyId, new: Option<Policy>) {
        let old = self.policies.remove(&id);
        self.rewritten.insert(id);
        // First what comes, so that what both have is not lost between.
        if let Some(new) = &new {
            let fresh = self.selectors.take(&new.subject, |uses| {
                uses.subjects.insert(id);
            });
            self.select(fresh, &new.subject);
            self.touch(&new.subject);
            for peer in new.peers() {
                let fresh = self.selectors.take(peer, |uses| uses.peers += 1);
                self.select(fresh, peer);
                self.touch_if(peer, 1);
            }
            for name in new.port_names() {
                if self.port_names.take(name) {
                    self.touch_named(name);
                }
            }
        }
        if let Some(old) = &old {
            self.touch(&old.subject);
            if new.as_ref().is_none_or(|new| new.subject != old.subject) {
                let last = self.selectors.leave(&old.subject, |uses| {
                    uses.subjects.remove(&id);
                });
                self.unselect(last, &old.subject);
            }
            for peer in old.peers() {
                let last = self.selectors.leave(peer, |uses| uses.peers -= 1);
                self.touch_if(peer, 0);
                self.unselect(last, peer);
            }
            for name in old.port_names() {
                if self.port_names.leave(name) {
                    self.touch_named(name);
                }
            }
        }
        self.policies.extend(new.map(|new| (id, new)));
    }

    /// The pods that a selector could select.
    fn candidates(&self, selector: &PodSelector) -> Vec<Arc<str>> {
        match &selector.namespaces {
            Namespaces::One(name) => {
                self.in_namespace.get(name).into_iter().flatten().cloned().collect()
            }
            Namespaces::Selected(_) => self.pods.keys().cloned().collect(),
        }
    }

    /// Notes whom a selector selects that has just got this number.
    fn select(&mut self, number: Option<u32>, selector: &PodSelector) {
        let Some(number) = number else { return };
        for uid in self.candidates(selector) {
            if let Some(pod) = self.pods.get_mut(&uid)
                && let Some(facts) = &pod.facts
                && selects(&self.namespaces, selector, facts)
            {
                pod.selected.insert(number);
                self.touched.insert(uid);
            }
        }
    }

    /// Forgets whom a selector selects that had this number.
    fn unselect(&mut self, number: Option<u32>, selector: &PodSelector) {
        let Some(number) = number else { return };
        for uid in self.candidates(selector) {
            if self.pods.get_mut(&uid).is_some_and(|pod| pod.selected.remove(&number)) {
                self.touched.insert(uid);
            }
        }
    }

    /// Those that a selector selects are to be looked at again.
    fn touch(&mut self, selector: &PodSelector) {
        let number = self.selectors.number(selector);
        for uid in self.candidates(selector) {
            if self.pods.get(&uid).is_some_and(|pod| pod.selected.contains(&number)) {
                self.touched.insert(uid);
            }
        }
    }

    /// As [`Catalogue::touch`], if so many rules have it as a peer.
    fn touch_if(&mut self, selector: &PodSelector, peers: usize) {
        let uses = self.selectors.uses(self.selectors.number(selector));
        if uses.is_some_and(|uses| uses.peers == peers) {
            self.touch(selector);
        }
    }

    /// Those that have a port of this name are to be looked at again.
    fn touch_named(&mut self, name: &PortName) {
        let has = |pod: &Pod| {
            pod.facts.as_ref().is_some_and(|facts| facts.ports.iter().any(|(port, _)| port == name))
        };
        let those = self.pods.iter().filter(|(_, pod)| has(pod));
        self.touched.extend(those.map(|(uid, _)| Arc::clone(uid)));
    }

    /// A policy's rules of a direction.
    fn lines(&self, id: PolicyId, direction: Direction) -> Vec<String> {
        let rules = self.policies.get(&id).and_then(|policy| policy.rules.get(&direction));
        let pods = |selector: &PodSelector| Set::Pods(self.selectors.number(selector)).to_string();
        let named = |name: &PortName| Set::Ports(self.port_names.number(name)).to_string();
        let rules = rules.into_iter().flatten();
        rules.flat_map(|rule| rule.lines(direction, &pods, &named)).collect()
    }

    /// What the table must hold of a pod.
    fn placement(&self, pod: &Pod) -> Placement {
        let Some((address, node)) = pod.addresses else { return Placement::default() };
        let mut placement = Placement { address: Some(address), ..Placement::default() };
        if let Some(facts) = &pod.facts {
            for number in &pod.selected {
                let Some(uses) = self.selectors.uses(*number) else { continue };
                for id in &uses.subjects {
                    let rules = self.policies.get(id).map(|policy| &policy.rules);
                    for direction in rules.into_iter().flat_map(BTreeMap::keys) {
                        placement.groups.entry(*direction).or_default().insert(*id);
                    }
                }
                if uses.peers > 0 && !facts.ended {
                    placement.elements.insert(Element::Pod(*number, address));
                }
            }
            let named =
                facts.ports.iter().map(|(name, port)| (self.port_names.number(name), *port));
            let named = named.filter(|(number, _)| *number != 0 && !facts.ended);
            let element = |(number, port)| Element::Port(number, address, port);
            placement.elements.extend(named.map(element));
        } else {
            placement.groups = Direction::ALL.map(|way| (way, BTreeSet::new())).into();
        }
        if !placement.groups.is_empty() {
            let own = [(address, address), (address, node), (node, address)];
            placement.elements.extend(own.map(|(from, to)| Element::Own(from, to)));
        }
        placement
    }
}

fn selects(namespaces: &BTreeMap<String, Value>, selector: &PodSelector, facts: &Facts) -> bool {
    let here = match &selector.namespaces {
        Namespaces::One(name) => *name == facts.namespace,
        Namespaces::Selected(labels) => {
            namespaces.get(&facts.namespace).is_some_and(|namespace| labels.matches(namespace))
        }
    };
    here && selector.labels.matches(&facts.labels)
}

fn facts(pod: &Value) -> Facts {
    let containers =
        ["spec.initContainers", "spec.containers"].into_iter().flat_map(|path| list(pod, path));
    let ports = containers.flat_map(|container| list(container, "ports")).filter_map(|port| {
        let protocol = Protocol::parse(port["protocol"].as_str())?;
        let name = port["name"].as_str()?.to_owned();
        let number = u16::try_from(port["containerPort"].as_u64()?).ok()?;
        Some((PortName { protocol, name }, number))
    });
    Facts {
        namespace: text(pod, "metadata.namespace").to_owned(),
        labels: pod["metadata"]["labels"].clone(),
        ports: ports.collect(),
        ended: matches!(text(pod, "status.phase"), "Succeeded" | "Failed"),
    }
}
