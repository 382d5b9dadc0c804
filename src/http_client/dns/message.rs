//! Questions and answers of the DNS (RFC 1034, RFC 1035), without EDNS0.

use std::fmt;
use std::io;
use std::net::IpAddr;

use domain::base::iana::{Opcode, Rcode};
use domain::base::rdata::ParseRecordData;
use domain::base::wire::ParseError;
use domain::base::{Message, MessageBuilder, Rtype};
use domain::rdata::{A, Aaaa};

/// A complete name in wire format: at most 255 octets, each label at most 63.
pub type Name = domain::base::Name<Vec<u8>>;

/// The kind of addresses that a question asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4: records of type A.
    V4,
    /// IPv6: records of type AAAA.
    V6,
}

/// A question for the addresses of a name, with an id that cannot be guessed (RFC 5452 §4).
#[derive(Debug)]
pub struct Query {
    message: Message<Vec<u8>>,
    family: Family,
}

/// A name server's reply to a [`Query`].
#[derive(Debug, PartialEq, Eq)]
pub enum Reply {
    /// It answers the question.
    Answer(Answer),
    /// The answer is too long for a datagram, so the question must be asked over TCP.
    Truncated,
    /// It does not answer the question.
    Unusable(Unusable),
}

/// What a name server knows about a name.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// Its addresses of the family; there may be none.
    Addresses(Vec<IpAddr>),
    /// There is no such name.
    NoSuchName,
}

/// Why a reply does not answer the question.
#[derive(Debug, PartialEq, Eq)]
pub enum Unusable {
    /// Its code reports a failure, such as SERVFAIL.
    Code(Rcode),
    /// It only refers to other name servers.
    Referral,
    /// Its records cannot be read, or its aliases have no end.
    Malformed,
}

impl fmt::Display for Unusable {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(formatter, "answered {code}"),
            Self::Referral => formatter.write_str("only referred to other name servers"),
            Self::Malformed => formatter.write_str("gave an answer that cannot be read"),
        }
    }
}

impl Query {
    /// A question for the addresses that `name` has of `family`.
    ///
    /// # Errors
    /// The system gives no random numbers.
    pub fn new(name: &Name, family: Family) -> io::Result<Self> {
        let [high, low, ..] = getrandom::u32().map_err(io::Error::other)?.to_ne_bytes();
        let record = match family {
            Family::V4 => Rtype::A,
            Family::V6 => Rtype::AAAA,
        };
        let mut message = MessageBuilder::new_vec();
        message.header_mut().set_id(u16::from_be_bytes([high, low]));
        message.header_mut().set_rd(true);
        let mut message = message.question();
        message.push((name, record)).map_err(io::Error::other)?;
        Ok(Self { message: message.into_message(), family })
    }

    /// The message to send.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.message.as_slice()
    }

    /// Reads the reply in `message`; `None` if it is not a reply to this question (RFC 5452 §9.1).
    #[must_use]
    pub fn reply(&self, message: &[u8]) -> Option<Reply> {
        let message = Message::from_slice(message).ok()?;
        let header = message.header();
        let code = header.rcode();
        let is_known = matches!(code, Rcode::NOERROR | Rcode::NXDOMAIN);
        // Some name servers leave the question out when they refuse it.
        let is_bare =
            message.header_counts().qdcount() == 0 && header.qr() && header.id() == self.message.header().id();
        if header.opcode() != Opcode::QUERY || !(message.is_answer(&self.message) || is_bare && !is_known) {
            return None;
        }
        if !is_known {
            return Some(Reply::Unusable(Unusable::Code(code)));
        }
        if header.tc() {
            return Some(Reply::Truncated);
        }
        if code == Rcode::NXDOMAIN {
            return Some(Reply::Answer(Answer::NoSuchName));
        }
        Some(match self.addresses(message) {
            Ok(addresses) if addresses.is_empty() && !header.aa() && !header.ra() => {
                Reply::Unusable(Unusable::Referral)
            }
            Ok(addresses) => Reply::Answer(Answer::Addresses(addresses)),
            Err(_) => Reply::Unusable(Unusable::Malformed),
        })
    }

    fn addresses(&self, message: &Message<[u8]>) -> Result<Vec<IpAddr>, ParseError> {
        match self.family {
            Family::V4 => records(message, |data: A| data.addr().into()),
            Family::V6 => records(message, |data: Aaaa| data.addr().into()),
        }
    }
}

/// The addresses in `message` of the name at the end of the question's chain of aliases.
fn records<'a, D>(message: &'a Message<[u8]>, address: impl Fn(D) -> IpAddr) -> Result<Vec<IpAddr>, ParseError>
where
    D: ParseRecordData<'a, [u8]>,
{
    let name = message.canonical_name().ok_or(ParseError::form_error("too many aliases"))?;
    let records = message.answer()?.limit_to_in::<D>();
    records
        .filter(|record| record.as_ref().map_or(true, |record| *record.owner() == name))
        .map(|record| record.map(|record| address(record.into_data())))
        .collect()
}
