//! Tracking a tag: the registry's answer makes generations, an announcement does not.

use super::super::Wakeup;
use super::{at, digest, fixture, name, set};
use crate::model::desired::{Image, Origin, TagHint};
use crate::model::name::Generation;

fn tagged(number: u64) -> Image {
    Image { reference: Some("localhost:5000/shop".to_owned()), digest: Some(digest(number)), id: None }
}

fn hint(number: u64) -> TagHint {
    TagHint { digest: digest(number), by: "registry (alice)".to_owned(), at: at(5) }
}

#[tokio::test]
async fn a_digest_that_was_announced_is_its_senders_generation() {
    let record = fixture();
    let shop = name("shop");
    let (writer, resolver) = (&record.handles.writer, &record.handles.resolver);
    let announced = writer.announce_tag(vec![shop.clone()], hint(1)).await.unwrap();
    assert_eq!(announced, std::slice::from_ref(&shop));
    assert_eq!(writer.announce_tag(vec![shop.clone()], hint(1)).await.unwrap(), [], "it is no news twice");
    let made = resolver.advance_tag(&shop, tagged(1), "tag x:stable".to_owned(), at(6)).await.unwrap();
    assert_eq!(made, Some(Generation(1)));
    let desired = record.handles.desired.get(&shop).unwrap();
    assert_eq!(
        (desired.entry.origin, desired.entry.by.as_deref()),
        (Some(Origin::Tag), Some("registry (alice)"))
    );
    assert_eq!((desired.entry.image, desired.entry.note.as_deref()), (Some(tagged(1)), Some("tag x:stable")));
    assert_eq!((desired.tag, desired.tag_hint), (Some(digest(1)), None));
    assert_eq!(writer.announce_tag(vec![shop], hint(1)).await.unwrap(), [], "nor is what is recorded");
}

#[tokio::test]
async fn a_false_tag_announcement_changes_nothing() {
    let record = fixture();
    let shop = name("shop");
    let resolver = &record.handles.resolver;
    resolver.advance_tag(&shop, tagged(1), String::new(), at(6)).await.unwrap();
    record.handles.writer.announce_tag(vec![shop.clone()], hint(9)).await.unwrap();
    let mut wakeups = record.handles.wakeups.subscribe();
    assert_eq!(resolver.advance_tag(&shop, tagged(1), String::new(), at(7)).await.unwrap(), None);
    assert!(wakeups.try_recv().is_err(), "the registry may announce a tag before it shows it");
    assert_eq!(record.handles.desired.get(&shop).unwrap().tag_hint, Some(hint(9)));
    assert_eq!(resolver.advance_tag(&shop, tagged(1), String::new(), at(20)).await.unwrap(), None);
    assert_eq!(
        wakeups.try_recv().unwrap(),
        Wakeup::Desired(shop.clone()),
        "whoever waits hears of the answer"
    );
    let desired = record.handles.desired.get(&shop).unwrap();
    assert_eq!((desired.entry.generation, desired.tag_hint), (Generation(1), None));
}

#[tokio::test]
async fn an_explicitly_set_image_is_kept_until_the_tag_moves() {
    let record = fixture();
    let shop = name("shop");
    let resolver = &record.handles.resolver;
    resolver.advance_tag(&shop, tagged(1), String::new(), at(1)).await.unwrap();
    record.handles.writer.submit(&shop, set(5), &[]).await.unwrap();
    assert_eq!(resolver.advance_tag(&shop, tagged(1), String::new(), at(2)).await.unwrap(), None);
    let moved = resolver.advance_tag(&shop, tagged(2), String::new(), at(3)).await.unwrap();
    assert_eq!(moved, Some(Generation(3)));
    // Moving back to an earlier digest is a change, too.
    assert_eq!(
        resolver.advance_tag(&shop, tagged(1), String::new(), at(4)).await.unwrap(),
        Some(Generation(4))
    );
}
