//! `[environment.NAME.swarm]`.

use super::{Key, Section, ValueShape};

pub(in crate::model::manifest) static SWARM: Section = Section {
    title: "environment.NAME.swarm",
    keys: &[
        Key::new("replicas", ValueShape::Integer(1, 1000))
            .default("1")
            .example("3")
            .meaning("the number of replicas"),
        Key::new("constraints", ValueShape::List("texts"))
            .example(r#"["node.role == worker"]"#)
            .meaning("rules for the nodes that may run a replica, in the syntax of `docker service create --constraint`"),
        Key::new("spread", ValueShape::Text)
            .default("over nodes")
            .example(r#""node.labels.zone""#)
            .meaning("the node label over whose values the replicas are spread"),
        Key::new("per_node", ValueShape::Integer(1, 1000))
            .default("no limit")
            .example("2")
            .meaning("the most replicas on one node"),
        Key::new("parallel", ValueShape::Integer(0, 1000))
            .default("1")
            .example("2")
            .meaning("how many replicas are replaced at once; 0 means all"),
        Key::new("ports", ValueShape::Text)
            .default(r#"`"ingress"`"#)
            .example(r#""host""#)
            .meaning(
                "how `publish` is published: `\"ingress\"`: every node forwards it to the replicas; `\"host\"`: each node \
                publishes it for the replica that it runs, so `update` is then `\"stop-first\"` by default; \
                `\"dynamic\"`: each replica gets a free port of its node, which `abide status` shows and the proxy \
                forwards to",
            ),
    ],
};
