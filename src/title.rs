//! The titles of conversations: one line of at most 80 characters.

use unicode_segmentation::GraphemeCursor;

/// The most characters of a title, in Unicode scalar values. A limit in grapheme clusters would limit nothing,
/// because one cluster can have any number of combining marks.
pub(crate) const MAX_CHARACTERS: usize = 80;

/// The title of a conversation that begins with `message`. A long message is cut at the end of a word, or if the
/// first word is too long, at the end of a grapheme cluster (UAX #29 §3), and `…` is added. `None` if the message
/// has no visible character.
pub(crate) fn of_message(message: &str) -> Option<String> {
    let (mut title, length) = line(message);
    if length > MAX_CHARACTERS {
        let room = title.char_indices().nth(MAX_CHARACTERS - 1).map_or(title.len(), |(at, _)| at);
        let kept = &title[..last_boundary(&title, room)];
        let ends_a_word = title[kept.len()..].starts_with(' ');
        let end = if ends_a_word { kept.len() } else { kept.rfind(' ').unwrap_or(kept.len()) };
        title.truncate(end);
        title.push('…');
    }
    Some(title).filter(|title| title.contains(is_visible))
}

/// The title that a caller has sent, without the whitespace around it.
///
/// # Errors
/// What is wrong with the text: it has no visible character, is too long, or is not one line of plain text.
pub(crate) fn of_caller(text: &str) -> Result<&str, &'static str> {
    let title = text.trim();
    if !title.contains(is_visible) {
        Err("blank")
    } else if title.contains(is_control) {
        Err("not plain text on one line")
    } else if title.chars().count() > MAX_CHARACTERS {
        Err("too long")
    } else {
        Ok(title)
    }
}

/// `text` on one line, without control characters, and its length. Of a text that is too long, only the beginning,
/// which still has more than [`MAX_CHARACTERS`] characters.
fn line(text: &str) -> (String, usize) {
    let (mut line, mut length, mut gap) = (String::new(), 0, false);
    for character in text.chars() {
        if character.is_whitespace() {
            gap = length > 0;
            continue;
        }
        if is_control(character) {
            continue;
        }
        if std::mem::take(&mut gap) {
            line.push(' ');
            length += 1;
        }
        line.push(character);
        length += 1;
        if length > MAX_CHARACTERS {
            break;
        }
    }
    (line, length)
}

/// Whether it is a control character, ends a line, or embeds, overrides or isolates a direction (UAX #9 §2), which
/// would reorder the text next to it.
fn is_control(character: char) -> bool {
    character.is_control() || matches!(character, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Whether it is visible: not whitespace, and not a character without width, such as those that join emoji.
fn is_visible(character: char) -> bool {
    let has_width =
        !matches!(character, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2060}'..='\u{2064}' | '\u{3164}' | '\u{feff}');
    has_width && !character.is_whitespace() && !is_control(character)
}

/// The last boundary between grapheme clusters of `text` at or before `at`.
fn last_boundary(text: &str, at: usize) -> usize {
    let mut cursor = GraphemeCursor::new(at, text.len(), true);
    // The whole text is given, so neither call needs more of it.
    match cursor.is_boundary(text, 0) {
        Ok(true) => at,
        _ => cursor.prev_boundary(text, 0).ok().flatten().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use unicode_segmentation::UnicodeSegmentation;

    use super::*;

    #[test]
    fn a_title_is_the_beginning_of_the_message_on_one_line() {
        let family = "👩\u{200d}👩\u{200d}👧\u{200d}👦";
        let rows = [
            ("Hello", Some("Hello".to_owned())),
            ("  Hello,\r\n\t world\u{3000}! ", Some("Hello, world !".to_owned())),
            ("a\u{0}b\u{1b}[31m\u{202e}c\u{2066}d\u{7f}", Some("ab[31mcd".to_owned())),
            ("a \u{202e} b", Some("a b".to_owned())),
            ("\u{202e}\u{0} \n", None),
            ("\u{200b}\u{feff} \u{200d}", None),
            ("…", Some("…".to_owned())),
            ("가나다 라마바", Some("가나다 라마바".to_owned())),
            // Exactly as long as allowed.
            (&"x".repeat(80), Some("x".repeat(80))),
            (&format!("{} ", "x".repeat(80)), Some("x".repeat(80))),
            // Too long, and one word.
            (&"x".repeat(81), Some(format!("{}…", "x".repeat(79)))),
            (&"가".repeat(100), Some(format!("{}…", "가".repeat(79)))),
            // Cut at a word: before the one that does not fit, or after one that just fits.
            (&format!("{} {}", "x".repeat(40), "y".repeat(60)), Some(format!("{}…", "x".repeat(40)))),
            (&format!("{} y", "x".repeat(79)), Some(format!("{}…", "x".repeat(79)))),
            (&"안녕 ".repeat(40), Some(format!("{}…", "안녕 ".repeat(26).trim_end()))),
            // Seven characters each, so eleven fit into 79.
            (&family.repeat(12), Some(format!("{}…", family.repeat(11)))),
            // Jamo and combining marks stay with what they belong to.
            (&"\u{1112}\u{1161}\u{11ab}".repeat(30), Some(format!("{}…", "\u{1112}\u{1161}\u{11ab}".repeat(26)))),
            (&"e\u{301}\u{323}".repeat(30), Some(format!("{}…", "e\u{301}\u{323}".repeat(26)))),
            // One cluster that does not fit.
            (&format!("e{}", "\u{301}".repeat(100)), Some("…".to_owned())),
        ];
        for (message, expected) in rows {
            assert_eq!(of_message(message), expected, "{message:?}");
        }
    }

    #[test]
    fn a_callers_title_is_accepted_as_a_whole_or_not_at_all() {
        let (longest, too_long) = ("가".repeat(80), "가".repeat(81));
        let rows = [
            (" \n My  title\u{3000}", Ok("My  title")),
            ("👩\u{200d}🚀", Ok("👩\u{200d}🚀")),
            (&longest, Ok(&longest)),
            (&too_long, Err("too long")),
            ("", Err("blank")),
            (" \n\u{202e}\u{7}", Err("blank")),
            ("\u{200b}\u{3164}", Err("blank")),
            ("My\ntitle", Err("not plain text on one line")),
            ("My\u{2028}title", Err("not plain text on one line")),
            ("My\u{202e}title", Err("not plain text on one line")),
            ("My\u{0}title", Err("not plain text on one line")),
        ];
        for (text, expected) in rows {
            assert_eq!(of_caller(text), expected, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn a_title_is_short_and_ends_where_a_grapheme_cluster_of_the_message_does(message in ".{0,200}") {
            let (whole, _) = line(&message);
            let Some(title) = of_message(&message) else { return Ok(()) };
            prop_assert!(title.chars().count() <= MAX_CHARACTERS);
            prop_assert!(!title.contains(|character: char| character.is_control()));
            match title.strip_suffix('…').filter(|_| title != whole) {
                None => prop_assert_eq!(title, whole),
                Some(kept) => {
                    prop_assert!(whole.starts_with(kept));
                    let mut ends = whole.grapheme_indices(true).map(|(at, cluster)| at + cluster.len());
                    prop_assert!(kept.is_empty() || ends.any(|end| end == kept.len()));
                }
            }
        }
    }
}
