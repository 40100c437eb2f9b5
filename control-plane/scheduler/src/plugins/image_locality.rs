//! `ImageLocality`: a node that has the pod's images starts it sooner.

use super::MAX_SCORE;
use crate::cluster::Cluster;
use crate::model::{Node, Pod};

const MB: i64 = 1 << 20;
/// Images that are smaller do not matter.
const SMALLEST: i64 = 23 * MB;
/// What is larger matters no more, per container.
const LARGEST: i64 = 1000 * MB;

pub(super) fn score(pod: &Pod, node: &Node, cluster: &Cluster) -> i64 {
    if node.images.is_empty() || pod.images.is_empty() {
        return 0;
    }
    let containers = i64::try_from(pod.images.len()).unwrap_or(i64::MAX);
    let sum: i64 = pod.images.iter().map(|image| weighted_size(image, node, cluster)).sum();
    let largest = LARGEST.saturating_mul(containers);
    let counted = sum.clamp(SMALLEST, largest);
    MAX_SCORE * (counted - SMALLEST) / (largest - SMALLEST)
}

/// The size of an image that the node has, by the share of nodes that have it: so that not every
/// pod of an image goes to the one node that has it.
fn weighted_size(image: &str, node: &Node, cluster: &Cluster) -> i64 {
    let tagged = normalized(image);
    let found = node.images.iter().find(|(name, _)| *name == tagged || name == image);
    let Some((name, size)) = found else { return 0 };
    let having = i64::try_from(cluster.nodes_with_image(name)).unwrap_or(i64::MAX);
    let all = i64::try_from(cluster.len()).unwrap_or(i64::MAX).max(1);
    size.saturating_mul(having) / all
}

/// An image's name with its tag.
fn normalized(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    if last.contains(':') || last.contains('@') {
        image.to_owned()
    } else {
        format!("{image}:latest")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{cluster, node, pod};

    fn with_image(name: &str, image: &str, size: i64) -> Value {
        let mut node = node(name, json!({}));
        node["status"]["images"] = json!([{"names": [image], "sizeBytes": size}]);
        node
    }

    #[test]
    fn a_large_image_that_is_there_counts_by_how_many_have_it() {
        let nodes = [
            with_image("a", "docker.io/library/app:latest", 800 * MB),
            with_image("b", "docker.io/library/app:1", 800 * MB),
            with_image("c", "docker.io/library/app:latest", 20 * MB),
            node("d", json!({})),
        ];
        let cluster = cluster(nodes, []);
        let containers = json!([{"image": "docker.io/library/app"}]);
        let pod = pod("p", json!({}), json!({"containers": containers}));
        let scores: Vec<i64> =
            cluster.nodes().map(|(_, node)| score(&pod, node, &cluster)).collect();
        // Two of four nodes have it: half of 800 MB, less the 23 MB that do not matter.
        assert_eq!(scores, [100 * (400 - 23) / (1000 - 23), 0, 0, 0]);
    }

    #[test]
    fn names_without_tag_are_of_the_latest() {
        assert_eq!(normalized("host:5000/app"), "host:5000/app:latest");
        assert_eq!(normalized("host:5000/app:2"), "host:5000/app:2");
        assert_eq!(normalized("app@sha256:abc"), "app@sha256:abc");
    }
}
