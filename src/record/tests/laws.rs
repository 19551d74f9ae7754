//! Invariants after any sequence of operations.

use proptest::prelude::*;

use super::super::{Export, Handles, open};
use super::{at, commit, delivery, hold, image, name, set};
use crate::model::desired::Outcome;
use crate::model::name::{EnvironmentName, Generation};

#[derive(Clone, Debug)]
enum Operation {
    Push(u64),
    Advance(u64),
    Resolve(u64, u64),
    Rebuild(u64, u64),
    RollBack(u64, u64),
    Submit(u64, bool),
    Hold(Option<u64>),
    Resume,
    Sync,
    Outcome(u64),
    ExportAndImport,
    Reopen,
}

fn operation() -> impl Strategy<Value = Operation> {
    let small = 0..6_u64;
    prop_oneof![
        small.clone().prop_map(Operation::Push),
        small.clone().prop_map(Operation::Advance),
        (small.clone(), small.clone()).prop_map(|(generation, image)| Operation::Resolve(generation, image)),
        (small.clone(), small.clone()).prop_map(|(generation, image)| Operation::Rebuild(generation, image)),
        (small.clone(), small.clone()).prop_map(|(generation, image)| Operation::RollBack(generation, image)),
        (small.clone(), any::<bool>()).prop_map(|(image, hold)| Operation::Submit(image, hold)),
        proptest::option::of(1..6_u64).prop_map(Operation::Hold),
        Just(Operation::Resume),
        Just(Operation::Sync),
        small.prop_map(Operation::Outcome),
        Just(Operation::ExportAndImport),
        Just(Operation::Reopen),
    ]
}

async fn perform(handles: &Handles, environment: &EnvironmentName, operation: Operation) {
    let Handles { writer, resolver, desired, status_writer, .. } = handles;
    match operation {
        Operation::Push(number) => {
            let one = std::slice::from_ref(environment);
            writer.push(delivery(&number.to_string(), number), one).await.unwrap();
        }
        Operation::Advance(number) => {
            resolver.advance_head(environment, &commit(number), at(number)).await.unwrap();
        }
        Operation::Resolve(generation, number) => {
            resolver.resolve_image(environment, Generation(generation), image(number)).await.unwrap();
        }
        Operation::Rebuild(generation, number) => {
            let generation = Generation(generation);
            resolver.rebuilt(environment, generation, image(number), None, at(1)).await.unwrap();
        }
        Operation::RollBack(generation, number) => {
            resolver.roll_back(environment, super::resolver::back(generation, number)).await.unwrap();
        }
        Operation::Submit(number, held) => {
            let mut change = set(number);
            change.hold = held.then(|| hold(None));
            writer.submit(environment, change, &[]).await.unwrap();
        }
        Operation::Hold(generation) => {
            let current = desired.get(environment).unwrap().entry.generation.0;
            let generation = generation.filter(|generation| *generation <= current);
            writer.hold(environment, hold(generation)).await.unwrap();
        }
        Operation::Resume => drop(writer.resume(environment, at(1), None).await.unwrap()),
        Operation::Sync => drop(writer.sync(environment, at(1), true).await.unwrap()),
        Operation::Outcome(generation) => {
            status_writer.outcome(environment, Generation(generation), Outcome::Ready).await.unwrap();
        }
        Operation::ExportAndImport => writer.import(desired.export().unwrap()).await.unwrap(),
        Operation::Reopen => unreachable!("done by the caller"),
    }
}

fn assert_lawful(before: &Export, after: &Export) {
    for environment in &after.environments {
        let name = &environment.desired.environment;
        let current = environment.desired.entry.generation.0;
        let known = before.environments.iter().find(|known| known.desired.environment == *name);
        let earlier = known.map_or(0, |known| known.desired.entry.generation.0);
        assert!(current == earlier || current == earlier + 1, "`{name}` went from {earlier} to {current}");
        let kept: Vec<_> = environment.history.iter().map(|kept| kept.entry.generation.0).collect();
        assert_eq!(kept, (1..=current).rev().collect::<Vec<_>>(), "the history of `{name}`");
        let newest = environment.history.first().map(|newest| &newest.entry);
        assert_eq!(newest, (current > 0).then_some(&environment.desired.entry), "`{name}`");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn generations_rise_by_one_and_history_has_them_all(
        operations in proptest::collection::vec((any::<bool>(), operation()), 1..30),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let home = tempfile::tempdir().unwrap();
        let mut handles = open(home.path()).unwrap();
        for (which, operation) in operations {
            let before = handles.desired.export().unwrap();
            if let Operation::Reopen = operation {
                drop(handles);
                handles = open(home.path()).unwrap();
                prop_assert_eq!(&handles.desired.export().unwrap(), &before);
                prop_assert!(handles.notices.is_empty(), "{:?}", handles.notices);
            } else {
                let environment = name(if which { "dev" } else { "test" });
                runtime.block_on(perform(&handles, &environment, operation));
            }
            assert_lawful(&before, &handles.desired.export().unwrap());
        }
    }
}
