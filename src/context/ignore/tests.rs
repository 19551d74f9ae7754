//! The rules case by case and in general; `docker_cli_tests` compares them with Docker itself.

use proptest::prelude::*;

use super::*;

fn ignored(text: &str, path: &str) -> bool {
    IgnoreRules::parse(text).unwrap().is_ignored(path)
}

fn message(text: &str) -> String {
    IgnoreRules::parse(text).unwrap_err().to_string()
}

#[test]
fn patterns_match_as_in_docker() {
    let cases: &[(&str, &[&str], &[&str])] = &[
        // (the file, ignored paths, other paths)
        ("", &[], &["a", "a/b"]),
        ("# a\n\n  \n", &[], &["a", "# a"]),
        (" # a", &["# a"], &["a"]),
        ("a", &["a", "a/b", "a/b/c"], &["b/a", "ab", "A"]),
        ("/a", &["a", "a/b"], &["b/a"]),
        ("./a/", &["a", "a/b"], &["b/a"]),
        ("  a \r\n\tb\t", &["a", "b"], &["c"]),
        ("\u{feff}a", &["a"], &[]),
        ("a/../b//c/.", &["b/c"], &["a", "b"]),
        ("../a", &[], &["a"]),
        (".", &[], &["a", ".a"]),
        ("/", &[], &["a"]),
        ("*", &["a", ".a", "a/b"], &[]),
        ("*/a", &["b/a", "b/a/c"], &["a", "c/b/a"]),
        ("a*b", &["ab", "axxb"], &["a/b", "axbc"]),
        ("a?", &["ab", "aé"], &["a", "abc", "a/"]),
        ("**", &["a", "a/b/c"], &[]),
        ("**/a", &["a", "b/a", "c/b/a", "c/a/b"], &["ba", "b/ab"]),
        ("**a", &["a", "ba", "c/ba"], &["ab"]),
        ("**/*.a", &["x.a", "b/x.a", "b/c/.a"], &["a", "b/xa"]),
        ("a/**", &["a/b", "a/b/c"], &["a", "ab"]),
        ("a**", &["a", "ab", "ab/c"], &["ba"]),
        ("a/**/b", &["a/b", "a/c/b", "a/c/d/b"], &["ab", "a", "c/a/b"]),
        ("[a-c]x", &["ax", "cx"], &["dx", "x", "-x"]),
        ("[^a]x", &["bx", "/x"], &["ax"]),
        ("[!a]x", &["!x", "ax"], &["bx"]),
        ("a[\\]\\-]", &["a]", "a-"], &["a\\"]),
        ("\\#a\n\\!b\n\\*", &["#a", "!b", "*"], &["a", "b", "c"]),
        ("a.b+(c)$", &["a.b+(c)$"], &["axb+(c)$"]),
        ("a.?", &["a.b"], &["axb"]),
        ("{a,b}*", &["{a,b}", "{a,b}c"], &["a", "b"]),
        ("a|b*", &["a|b", "a|bc"], &["a", "b", "bc"]),
        ("*\n!a", &["b", "b/a"], &["a", "a/b"]),
        ("! a\n*", &["a", "b"], &[]),
        ("a\n! /a/b/", &["a", "a/c"], &["a/b", "a/b/c"]),
        ("*\n!**/a\na/b", &["b", "a/b"], &["a", "a/c", "x/a"]),
        ("*.a\n!x*.a\nxy.a", &["b.a", "xy.a"], &["xz.a"]),
        ("a\n./!a/b", &["a", "a/c"], &["a/b"]),
        // Docker evaluates a directory once: an exception that changes nothing for it changes nothing below
        // it.
        ("a/b\n!a", &["a/b"], &["a", "a/c"]),
        ("a\n!a/b\na", &["a", "a/c"], &["a/b"]),
    ];
    for (text, yes, no) in cases {
        for path in *yes {
            assert!(ignored(text, path), "{text:?} ignores {path:?}");
        }
        for path in *no {
            assert!(!ignored(text, path), "{text:?} does not ignore {path:?}");
        }
    }
}

#[test]
fn an_invalid_pattern_is_rejected_with_its_line() {
    assert_eq!(message("a\n\n[b"), r#"line 3, "[b": a [ without a ]"#);
    for text in
        ["[]", "[a-]", "[-a]", "[^]", "[a-b-c]", "a\\", "[\\", "!", "! ", "!/", "./!", "[b-a]", "*/[a"]
    {
        assert!(message(text).starts_with("line 1, "), "{text}");
    }
}

#[test]
fn a_comment_may_be_in_any_encoding_but_a_pattern_may_not() {
    assert!(IgnoreRules::parse_bytes(b"# caf\xe9\na").unwrap().is_ignored("a"));
    let error = IgnoreRules::parse_bytes(b"a\ncaf\xe9").unwrap_err();
    assert!(matches!(error, ContextError::Pattern { line: 2, rule: "the line is not UTF-8", .. }), "{error}");
}

#[test]
fn an_ignored_directory_is_entered_only_for_possible_exceptions() {
    let cases = [
        ("*\n!a/b/c", "a", true),
        ("*\n!a/b/c", "a/b", true),
        ("*\n!a/b/c", "a/c", false),
        ("*\n!a", "a", false),
        ("*\n!a/*/c", "a/x", true),
        ("*\n!a/*/c", "b", false),
        ("*\n!a/*/c", "a/x/c", false),
        ("*\n!*.md", "docs", false),
        ("*\n!**/*.md", "docs/deep", true),
        ("*\n!**.md", "docs", true),
        ("*\n!a/**", "a/b", true),
        ("*\n!a/**", "b", false),
        ("*\na/b", "a", false),
    ];
    for (text, directory, enter) in cases {
        assert_eq!(
            IgnoreRules::parse(text).unwrap().may_contain_exceptions(directory),
            enter,
            "{text:?} {directory}"
        );
    }
}

#[test]
fn an_adversarial_pattern_is_matched_quickly() {
    let rules = IgnoreRules::parse(&format!("{}b", "**/a*".repeat(200))).unwrap();
    assert!(!rules.is_ignored(&"a/".repeat(1000)));
}

/// Paths and patterns with few distinct parts, so that they often match.
fn path() -> impl Strategy<Value = String> {
    "[abc]{1,2}(/[abc]{1,2}){0,3}"
}

fn rules() -> impl Strategy<Value = String> {
    let line = r"!?(\*\*|\*|[abc]\*?|\?[abc]|\[ab\])(/(\*\*|\*|[abc]|\*[ab]|\?)){0,3}";
    prop::collection::vec(line, 0..6).prop_map(|lines| lines.join("\n"))
}

proptest! {
    #[test]
    fn no_ignore_file_causes_a_panic(text in "\\PC{0,40}(\n\\PC{0,20})?", path in "\\PC{0,20}") {
        if let Ok(rules) = IgnoreRules::parse(&text) {
            let _ = (rules.is_ignored(&path), rules.may_contain_exceptions(&path));
        }
    }

    #[test]
    fn every_path_below_a_skipped_directory_is_ignored(text in rules(), directory in path(), below in path()) {
        let rules = IgnoreRules::parse(&text).unwrap();
        if rules.is_ignored(&directory) && !rules.may_contain_exceptions(&directory) {
            let path = format!("{directory}/{below}");
            prop_assert!(rules.is_ignored(&path), "{} under {:?}", path, text);
        }
    }

    #[test]
    fn a_last_line_that_names_a_path_decides(text in rules(), path in path()) {
        let all = format!("{text}\n{path}");
        prop_assert!(ignored(&all, &path));
        let excepted = format!("{text}\n!{path}");
        prop_assert!(!ignored(&excepted, &path));
    }

    #[test]
    fn path_cleaning_is_idempotent(path in "[a./!]{0,12}") {
        prop_assert_eq!(clean(&clean(&path)), clean(&path));
    }
}
