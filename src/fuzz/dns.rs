//! Replies of name servers.

use crate::http_client::dns::message::{Answer, Family, Name, Query, Reply};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The labels of the name at `at` in a DNS message, in lower case, and where it ends (RFC 1035 §4.1.4).
fn dns_name(message: &[u8], mut at: usize) -> Option<(Vec<Vec<u8>>, usize)> {
    let (mut labels, mut end, mut length) = (Vec::new(), None, 0);
    loop {
        match usize::from(*message.get(at)?) {
            0 => return Some((labels, end.unwrap_or(at + 1))),
            pointer @ 0xC0.. => {
                end = end.or(Some(at + 2));
                let target = (pointer & 0x3F) << 8 | usize::from(*message.get(at + 1)?);
                // Backwards only, or it could lead in a circle.
                at = Some(target).filter(|target| *target < at)?;
            }
            label @ 1..64 => {
                labels.push(message.get(at + 1..at + 1 + label)?.to_ascii_lowercase());
                (at, length) = (at + 1 + label, length + 1 + label);
                if length > 254 {
                    return None;
                }
            }
            _ => return None,
        }
    }
}

/// The addresses that a DNS answer to `query` may give: those of the name that was asked for and of its aliases. `None`
/// if it answers another question.
fn dns_addresses(query: &[u8], message: &[u8], family: Family) -> Option<BTreeSet<IpAddr>> {
    let number = |at: usize| Some(usize::from(u16::from_be_bytes(*message.get(at..)?.first_chunk()?)));
    let (asked, end) = dns_name(message, 12)?;
    let is_question =
        asked == dns_name(query, 12)?.0 && message.get(end..end + 4) == query.last_chunk::<4>().map(|types| &types[..]);
    if !is_question {
        return None;
    }
    let (mut at, mut addresses, mut aliases) = (end + 4, Vec::new(), Vec::new());
    for _ in 0..number(6)? {
        // Nothing after a record that cannot be read is known.
        let Some((owner, end)) = dns_name(message, at) else { break };
        let (Some(kind), Some(class), Some(length)) = (number(end), number(end + 2), number(end + 8)) else { break };
        let Some(data) = message.get(end + 10..end + 10 + length) else { break };
        match (class, kind, family) {
            (1, 1, Family::V4) => {
                addresses.extend(data.first_chunk::<4>().map(|data| (owner, Ipv4Addr::from(*data).into())));
            }
            (1, 28, Family::V6) => {
                addresses.extend(data.first_chunk::<16>().map(|data| (owner, Ipv6Addr::from(*data).into())));
            }
            (_, 5, _) => aliases.extend(dns_name(message, end + 10).map(|(alias, _)| (owner, alias))),
            _ => {}
        }
        at = end + 10 + length;
    }
    let mut names = BTreeSet::from([asked]);
    loop {
        let known = names.len();
        names.extend(
            aliases.iter().filter(|(name, _)| names.contains(name)).map(|(_, alias)| alias.clone()).collect::<Vec<_>>(),
        );
        if names.len() == known {
            break;
        }
    }
    Some(addresses.into_iter().filter(|(name, _)| names.contains(name)).map(|(_, address)| address).collect())
}

/// A reply to a DNS query: every address that is read from it belongs to the name that was asked for, or to an alias of
/// it.
///
/// The first byte gives the family, and whether the rest is the whole message. Otherwise the next ten bytes are the
/// header without the id, and the records follow.
pub fn dns(input: &[u8]) {
    let Some((kind, rest)) = input.split_first() else { return };
    let family = if kind & 1 == 0 { Family::V4 } else { Family::V6 };
    let name: Name = "model.example.com".parse().expect("it is a name");
    let query = Query::new(&name, family).expect("there are random numbers");
    let asked = query.as_bytes();
    let mut message = asked[..2].to_vec();
    if kind & 2 == 0 {
        let Some((header, records)) = rest.split_first_chunk::<10>() else { return };
        message.extend_from_slice(&[header[0] | 0x80, header[1], 0, 1]);
        message.extend_from_slice(&header[4..]);
        message.extend_from_slice(&asked[12..]);
        message.extend_from_slice(records);
    } else {
        message.extend_from_slice(rest);
    }
    let Some(reply) = query.reply(&message) else { return };
    assert!(message.len() >= 12 && message[2] & 0x80 != 0, "it is a reply");
    let other_id: Vec<u8> = message.iter().enumerate().map(|(at, byte)| byte ^ u8::from(at == 1)).collect();
    assert_eq!(query.reply(&other_id), None, "it answers another query");
    let code = message[3] & 0x0F;
    match reply {
        Reply::Answer(Answer::Addresses(addresses)) => {
            assert_eq!(code, 0);
            let known = dns_addresses(asked, &message, family).expect("the question can be read");
            assert!(addresses.iter().all(|address| known.contains(address)), "{addresses:?} of {known:?}");
        }
        Reply::Answer(Answer::NoSuchName) => assert_eq!(code, 3),
        Reply::Truncated => assert!(message[2] & 2 != 0),
        Reply::Unusable(reason) => assert!(!reason.to_string().is_empty()),
    }
}
