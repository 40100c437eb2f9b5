//! Services of type LoadBalancer: each gets an address of the cluster's uplink, which the host
//! reaches, so that several may have the same port.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use bulkhead_network::{Uplink, address};
use serde_json::{Value, json};

use crate::kubelet::follow::Told;
use crate::kubelet::{Context, events};

/// The first of an uplink's addresses that is given to a Service.
const FIRST: u32 = 16;

/// Services of type LoadBalancer, and the addresses that they have.
#[derive(Debug)]
pub(super) struct Balanced {
    uplink: Uplink,
    /// By namespace and name: the object, cut to what matters.
    services: BTreeMap<(String, String), Wish>,
}

#[derive(Debug, PartialEq)]
struct Wish {
    object: Value,
    address: Option<Ipv4Addr>,
    /// The one that it was given last: what an older version of the object does not say yet.
    given: Option<Ipv4Addr>,
    /// An address that it asks for by name.
    asked: Option<String>,
    /// Why it cannot have one, as it was told last.
    told: Option<String>,
}

impl Balanced {
    pub(super) const fn new(uplink: Uplink) -> Self {
        Self { uplink, services: BTreeMap::new() }
    }

    pub(super) fn take(&mut self, told: &Told) {
        match told {
            Told::All(objects) => {
                self.services.clear();
                objects.iter().for_each(|object| self.set(object));
            }
            Told::One { object, gone: false } => self.set(object),
            Told::One { object, gone: true } => drop(self.services.remove(&key(object))),
        }
    }

    fn set(&mut self, object: &Value) {
        let text = |path: &str| object.pointer(path).and_then(Value::as_str);
        // Of another class is another's.
        if text("/spec/type") != Some("LoadBalancer") || text("/spec/loadBalancerClass").is_some() {
            self.services.remove(&key(object));
            return;
        }
        let address = text("/status/loadBalancer/ingress/0/ip").and_then(|ip| ip.parse().ok());
        let asked = text("/spec/loadBalancerIP").filter(|ip| !ip.is_empty()).map(str::to_owned);
        let before = self.services.get(&key(object));
        let metadata = object.get("metadata").cloned().unwrap_or_default();
        let wish = Wish {
            object: json!({"metadata": metadata}),
            address,
            given: before.and_then(|before| before.given),
            told: before.and_then(|before| before.told.clone()),
            asked,
        };
        self.services.insert(key(object), wish);
    }

    fn gives(&self, address: Ipv4Addr) -> bool {
        let network = self.uplink.network();
        let first = Ipv4Addr::from_bits(network.addr().to_bits() + FIRST);
        network.contains(&address) && address >= first && address < network.broadcast()
    }

    /// The address of every Service that has none of the uplink's, or why it cannot have one.
    fn choices(&self) -> Vec<((String, String), Result<Ipv4Addr, String>)> {
        let mut taken: BTreeSet<Ipv4Addr> =
            self.services.values().filter_map(|wish| wish.address).collect();
        let mut choices = Vec::new();
        for (key, wish) in &self.services {
            if wish.address.is_some_and(|address| self.gives(address)) {
                continue;
            }
            let free = |address: &Ipv4Addr| self.gives(*address) && !taken.contains(address);
            let network = self.uplink.network();
            let choice = match &wish.asked {
                Some(asked) => match address::parse(asked) {
                    Ok(ip) if free(&ip) => Ok(ip),
                    Ok(ip) => {
                        Err(format!("spec.loadBalancerIP: {ip} is in use or not of {network}"))
                    }
                    Err(error) => Err(format!("spec.loadBalancerIP: {error}")),
                },
                None => wish
                    .given
                    .filter(free)
                    .or_else(|| network.hosts().find(free))
                    .ok_or_else(|| format!("no address of {network} is left")),
            };
            if let Ok(address) = choice {
                taken.insert(address);
            }
            choices.push((key.clone(), choice));
        }
        choices
    }

    /// Gives an address to every Service that has none; whether all of that was done. Who cannot have
    /// one is told why, once, and gets one as soon as that is no longer so.
    pub(super) async fn settle(&mut self, context: &Context) -> bool {
        let mut settled = true;
        for (key, choice) in self.choices() {
            let Some(wish) = self.services.get_mut(&key) else { continue };
            match choice {
                Ok(address) => {
                    let (namespace, name) = &key;
                    let path = format!("/api/v1/namespaces/{namespace}/services/{name}/status");
                    let ingress = json!([{"ip": address.to_string(), "ipMode": "VIP"}]);
                    let patch = json!({"status": {"loadBalancer": {"ingress": ingress}}});
                    match context.kube.merge(&path, &patch).await {
                        Ok(_) => {
                            (wish.address, wish.given) = (Some(address), Some(address));
                            wish.told = None;
                        }
                        Err(error) if error.is_not_found() => {}
                        Err(error) => {
                            tracing::warn!("the address of Service {namespace}/{name}: {error}");
                            settled = false;
                        }
                    }
                }
                Err(why) if wish.told.as_ref() != Some(&why) => {
                    let reason = "SyncLoadBalancerFailed";
                    events::service(context, &wish.object, "Warning", reason, &why);
                    wish.told = Some(why);
                }
                Err(_) => {}
            }
        }
        settled
    }
}

fn key(object: &Value) -> (String, String) {
    let text = |path: &str| object.pointer(path).and_then(Value::as_str).unwrap_or_default();
    (text("/metadata/namespace").to_owned(), text("/metadata/name").to_owned())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn service(name: &str, spec: Value) -> Told {
        let mut spec = spec;
        spec["type"] = "LoadBalancer".into();
        let object = json!({"metadata": {"namespace": "default", "name": name}, "spec": spec});
        Told::One { object: Arc::new(object), gone: false }
    }

    fn choices(balanced: &Balanced) -> Vec<(String, Result<String, String>)> {
        let choices = balanced.choices().into_iter();
        choices.map(|((_, name), choice)| (name, choice.map(|ip| ip.to_string()))).collect()
    }

    #[test]
    fn who_cannot_have_an_address_gets_one_once_that_has_changed() {
        let mut balanced = Balanced::new(Uplink::numbered(3));
        balanced.take(&service("a", json!({"loadBalancerIP": "10.213.3.20"})));
        balanced.take(&service("b", json!({"loadBalancerIP": "10.213.3.20"})));
        balanced.take(&service("c", json!({"loadBalancerIP": "10.213.4.20"})));
        balanced.take(&service("d", json!({"loadBalancerSourceRanges": ["10.0.0.0/8"]})));
        balanced.take(&service("e", json!({"loadBalancerClass": "example.com/other"})));
        let refused =
            |ip: &str| Err(format!("spec.loadBalancerIP: {ip} is in use or not of 10.213.3.0/24"));
        let first = [
            ("a".to_owned(), Ok("10.213.3.20".to_owned())),
            ("b".to_owned(), refused("10.213.3.20")),
            ("c".to_owned(), refused("10.213.4.20")),
            ("d".to_owned(), Ok("10.213.3.16".to_owned())),
        ];
        assert_eq!(choices(&balanced), first);

        // That it was told does not keep one from being looked at again.
        for wish in balanced.services.values_mut() {
            wish.told = Some("told".to_owned());
        }
        let Told::One { object, .. } = service("a", json!({})) else { unreachable!() };
        balanced.take(&Told::One { object, gone: true });
        balanced.take(&service("c", json!({})));
        let then = [("b", "10.213.3.20"), ("c", "10.213.3.16"), ("d", "10.213.3.17")];
        assert_eq!(choices(&balanced), then.map(|(name, ip)| (name.to_owned(), Ok(ip.to_owned()))));
    }
}
