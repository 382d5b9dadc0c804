//! The addresses of a host: which query goes to which name server, and how each reply is used.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kus_aws_backend::dns::message::{Answer, Family, Name, Query as Asked, Reply, Unusable};
use kus_aws_backend::dns::{Cause, Error, Failure, Resolver};
use local_stack::Backends;
use local_stack::name_server::{NameServer, Query, Say, Zone, address, alias};
use proptest::prelude::*;
use resolv_conf::Config;
use simple_dns::{PacketFlag, RCODE};
use uuid::Uuid;

use crate::support::client::{begin, chat_event, send, share};

const HOST: &str = "model.example";

/// Nothing listens on this port (RFC 863), and the system never assigns it.
const NOBODY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9);

/// Enough time for every answer that comes at all.
const LONG: Duration = Duration::from_mins(1);

/// How a server handles a query.
type Script = fn(&Query) -> Vec<Say>;

/// A resolver without a hosts file, which queries these servers by the rules of `conf`.
fn resolver(nameservers: &[&NameServer], conf: &str) -> Resolver {
    Resolver {
        hosts: String::new(),
        nameservers: nameservers.iter().map(|server| server.address()).collect(),
        config: Config::parse(conf).expect("a resolv.conf"),
    }
}

fn within(time: Duration) -> Option<Instant> {
    Instant::now().checked_add(time)
}

fn addresses(addresses: &[&str]) -> Vec<IpAddr> {
    addresses.iter().map(|address| address.parse().expect("an address")).collect()
}

/// Looks `HOST` up at one server.
fn look_up(server: &NameServer) -> Result<Vec<IpAddr>, Error> {
    resolver(&[server], "").look_up(HOST, within(LONG))
}

async fn name_server(script: impl Fn(&Query) -> Vec<Say> + Send + Sync + 'static) -> NameServer {
    NameServer::start(script).await.expect("the name server starts")
}

/// A server that has an IPv4 address for every name, and sends `first` before its reply.
async fn after(first: impl Fn(&Query) -> Vec<Say> + Send + Sync + 'static) -> NameServer {
    name_server(move |query| {
        let mut said = first(query);
        said.push(Zone::default().with(&query.name, &["127.0.0.7"]).reply(query).into());
        said
    })
    .await
}

/// The names that were queried at a server, each once.
fn names(server: &NameServer) -> Vec<String> {
    let mut names: Vec<_> = server.queries().into_iter().map(|query| query.name).collect();
    names.dedup();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_an_address_is_not_looked_up() {
    let server = NameServer::of(Zone::default()).await;
    for (host, expected) in [
        ("127.0.0.1", "127.0.0.1"),
        ("192.0.2.7", "192.0.2.7"),
        ("::1", "::1"),
        ("[::1]", "::1"),
        ("[2001:db8::a]", "2001:db8::a"),
    ] {
        assert_eq!(resolver(&[&server], "").look_up(host, None).expect(host), addresses(&[expected]));
    }
    assert_eq!(names(&server), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn localhost_is_this_machine_unless_the_hosts_file_says_another() {
    let server = NameServer::of(Zone::default().with("localhost", &["192.0.2.1"])).await;
    let mut resolver = resolver(&[&server], "search example");
    for host in ["localhost", "LocalHost", "localhost.", "a.localhost", "a.b.LOCALHOST."] {
        assert_eq!(resolver.look_up(host, None).expect(host), addresses(&["127.0.0.1", "::1"]), "{host}");
    }
    resolver.hosts = "127.0.0.9 localhost".to_owned();
    assert_eq!(resolver.look_up("localhost", None).expect("it is there"), addresses(&["127.0.0.9"]));
    assert_eq!(names(&server), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hosts_file_comes_first() {
    let server = NameServer::of(Zone::default().with(HOST, &["127.0.0.7"])).await;
    let dns: &[&str] = &["127.0.0.7"];
    let rows: [(&str, &[&str]); 14] = [
        ("", dns),
        ("127.0.0.2 model.example", &["127.0.0.2"]),
        ("127.0.0.2\tfirst  MODEL.Example\tlast\r\n", &["127.0.0.2"]),
        ("127.0.0.2 model.example.", &["127.0.0.2"]),
        ("::1 model.example\n127.0.0.2 model.example", &["127.0.0.2", "::1"]),
        (
            "127.0.0.3 model.example\n127.0.0.2 other model.example\n127.0.0.3 model.example",
            &["127.0.0.3", "127.0.0.2"],
        ),
        ("  127.0.0.2 model.example # model", &["127.0.0.2"]),
        ("127.0.0.2 other # model.example", dns),
        ("#127.0.0.2 model.example", dns),
        ("127.0.0.2 a.model.example\n127.0.0.2 model", dns),
        ("127.0.0.2", dns),
        ("300.0.0.2 model.example", dns),
        ("model.example 127.0.0.2", dns),
        ("\u{fffd}\0 model.example\n127.0.0.2 model.example", &["127.0.0.2"]),
    ];
    for (hosts, expected) in rows {
        for host in [HOST, "Model.EXAMPLE", "model.example."] {
            let resolver = Resolver { hosts: hosts.to_owned(), ..resolver(&[&server], "") };
            assert_eq!(resolver.look_up(host, within(LONG)).expect(host), addresses(expected), "{hosts:?}, {host}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn both_families_are_looked_up_at_once_and_ipv4_comes_first() {
    let rows: [(&[&str], &[&str]); 5] = [
        (&["127.0.0.2"], &["127.0.0.2"]),
        (&["::1"], &["::1"]),
        (&["::1", "127.0.0.3", "127.0.0.2"], &["127.0.0.3", "127.0.0.2", "::1"]),
        (&["127.0.0.2", "127.0.0.3", "127.0.0.2"], &["127.0.0.2", "127.0.0.3"]),
        // The broadcast address cannot be reached.
        (&["255.255.255.255", "127.0.0.2"], &["127.0.0.2", "255.255.255.255"]),
    ];
    for (has, expected) in rows {
        // The answer about IPv6 is the first, or else it may be too late on a busy machine.
        let (zone, v4) = (Zone::default().with(HOST, has), Mutex::new(None));
        let server = name_server(move |query| {
            let mut v4 = v4.lock().expect("no thread panics while it holds the lock");
            match v4.take() {
                None => {
                    *v4 = Some(zone.reply(query).into());
                    vec![]
                }
                Some(v4) => vec![zone.reply(query).into(), v4],
            }
        })
        .await;
        assert_eq!(look_up(&server).expect("addresses"), addresses(expected), "{has:?}");
        let queries = server.queries();
        assert_eq!(queries.iter().map(Query::asked).collect::<Vec<_>>(), [(HOST, "A"), (HOST, "AAAA")]);
        assert_eq!(queries[0].client, queries[1].client);
        assert!(queries.iter().all(|query| !query.by_tcp));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_option_no_aaaa_ipv6_is_not_looked_up() {
    let server = NameServer::of(Zone::default().with(HOST, &["127.0.0.2", "::1"])).await;
    let found = resolver(&[&server], "options no-aaaa").look_up(HOST, within(LONG)).expect("addresses");
    assert_eq!(found, addresses(&["127.0.0.2"]));
    assert_eq!(server.queries().iter().map(Query::asked).collect::<Vec<_>>(), [(HOST, "A")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_search_list_and_ndots_decide_which_names_are_looked_up() {
    type Row<'a> = (&'a str, &'a str, &'a [&'a str], Result<&'a str, &'a str>);
    let zone = Zone::default()
        .with("db", &[])
        .with("db.corp.example", &["127.0.0.2"])
        .with("db.lab.example", &["127.0.0.3"])
        .with("a.b", &["127.0.0.4"])
        .with("a.b.corp.example", &["127.0.0.5"])
        .with("empty.corp.example", &[])
        .with("deep.sub.corp.example", &["127.0.0.6"]);
    let search = "search corp.example lab.example";
    let long = format!("{}.{}", ["a".repeat(63).as_str(); 3].join("."), "b".repeat(55));
    let rows: [Row; 14] = [
        ("", "db", &["db"], Err("the host \"db\" has no address")),
        (search, "db", &["db.corp.example"], Ok("127.0.0.2")),
        ("domain lab.example", "db", &["db.lab.example"], Ok("127.0.0.3")),
        ("search corp.example\ndomain lab.example.", "db", &["db.lab.example"], Ok("127.0.0.3")),
        (search, "db.", &["db"], Err("the host \"db.\" has no address")),
        (search, "a.b", &["a.b"], Ok("127.0.0.4")),
        ("search corp.example\noptions ndots:2", "a.b", &["a.b.corp.example"], Ok("127.0.0.5")),
        ("search lab.example\noptions ndots:2", "a.b", &["a.b.lab.example", "a.b"], Ok("127.0.0.4")),
        (search, "deep.sub", &["deep.sub", "deep.sub.corp.example"], Ok("127.0.0.6")),
        (search, "none", &["none.corp.example", "none.lab.example", "none"], Err("there is no host \"none\"")),
        (
            search,
            "empty",
            &["empty.corp.example", "empty.lab.example", "empty"],
            Err("the host \"empty\" has no address"),
        ),
        ("search .", "none", &["none"], Err("there is no host \"none\"")),
        (search, &long, &[&long], Err("there is no host")),
        (search, "a..b", &[], Err("\"a..b\" cannot be the name of a host")),
    ];
    for (conf, host, asked, expected) in rows {
        let server = NameServer::of(zone.clone()).await;
        let found = resolver(&[&server], conf).look_up(host, within(LONG));
        match (found, expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, addresses(&[expected]), "{conf}, {host}"),
            (Err(error), Err(expected)) => assert!(error.to_string().starts_with(expected), "{conf}, {host}: {error}"),
            (found, _) => panic!("{conf}, {host}: {found:?}"),
        }
        assert_eq!(names(&server), asked, "{conf}, {host}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_name_is_not_looked_up() {
    let server = NameServer::of(Zone::default()).await;
    for host in ["", "..", ".a", "a..", &"a".repeat(64), &["a".repeat(63).as_str(); 4].join(".")] {
        let error = resolver(&[&server], "").look_up(host, within(LONG)).expect_err(host);
        assert!(matches!(error.cause, Cause::NoName), "{host}: {error}");
    }
    assert_eq!(names(&server), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_server_that_fails_is_followed_by_the_next() {
    fn refusing(code: RCODE) -> impl Fn(&Query) -> Vec<Say> {
        move |query| vec![query.refusal(code).into()]
    }
    let malformed = |query: &Query| {
        let mut packet = query.reply();
        packet.answers.push(address(&query.name, "127.0.0.9".parse().expect("an address")));
        let message = packet.build_bytes_vec().expect("a message");
        vec![Say::Message(message[..message.len() - 1].to_vec())]
    };
    let referral = |query: &Query| {
        let mut packet = query.reply();
        packet.remove_flags(PacketFlag::RECURSION_AVAILABLE);
        vec![packet.into()]
    };
    let bare = |query: &Query| {
        let mut packet = query.refusal(RCODE::FormatError);
        packet.questions.clear();
        vec![packet.into()]
    };
    let rows = [
        ("SERVFAIL", name_server(refusing(RCODE::ServerFailure)).await),
        ("REFUSED", name_server(refusing(RCODE::Refused)).await),
        ("NOTIMP", name_server(refusing(RCODE::NotImplemented)).await),
        ("FORMERR", name_server(refusing(RCODE::FormatError)).await),
        ("FORMERR", name_server(bare).await),
        ("cannot be read", name_server(malformed).await),
        ("referred", name_server(referral).await),
        ("did not answer", name_server(|_| Vec::new()).await),
    ];
    for (reason, failing) in &rows {
        let good = NameServer::of(Zone::default().with(HOST, &["::1"])).await;
        let found = resolver(&[failing, &good], "options timeout:1").look_up(HOST, within(LONG));
        assert_eq!(found.expect(reason), addresses(&["::1"]), "{reason}");
        assert_eq!((failing.queries().len(), good.queries().len()), (2, 2), "{reason}");

        let error = resolver(&[failing], "options timeout:1 attempts:3").look_up(HOST, None).expect_err(reason);
        assert_eq!(failing.queries().len(), 2 + 6, "{reason}");
        let expected =
            format!("the host \"model.example\" could not be looked up: the name server {}", failing.address());
        let said = error.to_string();
        assert!(said.starts_with(&expected) && said.contains(reason), "{reason}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_port_makes_the_next_name_server_take_over_at_once() {
    let good = NameServer::of(Zone::default().with(HOST, &["127.0.0.2"])).await;
    for conf in ["", "options use-vc"] {
        let mut resolver = resolver(&[&good], conf);
        resolver.nameservers.insert(0, NOBODY);
        resolver.config.timeout = 30;
        assert_eq!(resolver.look_up(HOST, None).expect("addresses"), addresses(&["127.0.0.2"]), "{conf}");
        resolver.nameservers.truncate(1);
        let error = resolver.look_up(HOST, None).expect_err("nothing listens there");
        let Cause::NotKnown(_, Failure::Io(cause)) = &error.cause else { panic!("{conf}: {error}") };
        assert_eq!(cause.kind(), std::io::ErrorKind::ConnectionRefused, "{conf}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denial_is_final_and_no_other_server_is_asked() {
    let rows = [
        (Zone::default(), "there is no host \"model.example\""),
        (Zone::default().with(HOST, &[]), "the host \"model.example\" has no address"),
    ];
    for (zone, expected) in rows {
        let (first, second) =
            (NameServer::of(zone).await, NameServer::of(Zone::default().with(HOST, &["127.0.0.2"])).await);
        let error = resolver(&[&first, &second], "").look_up(HOST, within(LONG)).expect_err(expected);
        assert_eq!(error.to_string(), expected);
        assert_eq!((first.queries().len(), second.queries().len()), (2, 0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denial_of_one_family_does_not_hide_the_other() {
    for is_v6 in [false, true] {
        let server = name_server(move |query| {
            let zone =
                if query.is_v6 == is_v6 { Zone::default() } else { Zone::default().with(HOST, &["127.0.0.2", "::1"]) };
            vec![zone.reply(query).into()]
        })
        .await;
        let expected = if is_v6 { "127.0.0.2" } else { "::1" };
        assert_eq!(look_up(&server).expect("an address"), addresses(&[expected]));

        let server = name_server(move |query| {
            let zone = if query.is_v6 == is_v6 { Zone::default() } else { Zone::default().with(HOST, &[]) };
            vec![zone.reply(query).into()]
        })
        .await;
        assert!(matches!(look_up(&server).expect_err("no address").cause, Cause::NoAddress));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn if_one_family_has_no_answer_the_addresses_of_the_other_are_used() {
    let zone = Zone::default().with(HOST, &["127.0.0.2", "::1"]);
    for is_v6 in [false, true] {
        let silent = {
            let zone = zone.clone();
            name_server(move |query| if query.is_v6 == is_v6 { vec![] } else { vec![zone.reply(query).into()] }).await
        };
        let refusing = {
            let zone = zone.clone();
            name_server(move |query| {
                let reply = zone.reply(query);
                vec![if query.is_v6 == is_v6 { query.refusal(RCODE::ServerFailure) } else { reply }.into()]
            })
            .await
        };
        let expected = if is_v6 { "127.0.0.2" } else { "::1" };
        for server in [&silent, &refusing] {
            let found = resolver(&[server], "options timeout:1").look_up(HOST, None).expect("an address");
            assert_eq!(found, addresses(&[expected]));
            // Without an IPv4 address only that one is queried again.
            let expected = if is_v6 { &[false, true][..] } else { &[false, true, false] };
            let asked: Vec<_> = server.queried(expected.len()).await.iter().map(|query| query.is_v6).collect();
            assert_eq!(asked, expected);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_is_requested_again() {
    let (zone, is_lost) = (Zone::default().with(HOST, &["127.0.0.2"]), AtomicBool::new(false));
    let server = name_server(move |query| {
        if query.is_v6 || is_lost.swap(true, Ordering::SeqCst) { vec![zone.reply(query).into()] } else { vec![] }
    })
    .await;
    let found = resolver(&[&server], "options timeout:1").look_up(HOST, within(LONG)).expect("an address");
    assert_eq!(found, addresses(&["127.0.0.2"]));
    assert_eq!(server.queries().iter().map(|query| query.is_v6).collect::<Vec<_>>(), [false, true, false]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_truncated_answer_is_requested_again_over_tcp() {
    let many: Vec<_> = (1..=200).map(|host| format!("127.0.1.{host}")).collect();
    let zone = Zone::default().with(HOST, &many.iter().map(String::as_str).collect::<Vec<_>>());
    let server = name_server(move |query| {
        let mut reply = zone.reply(query);
        if !query.by_tcp {
            reply.set_flags(PacketFlag::TRUNCATION);
            reply.answers.truncate(3);
        }
        vec![reply.into()]
    })
    .await;
    let found = look_up(&server).expect("addresses");
    assert_eq!(found, addresses(&many.iter().take(16).map(String::as_str).collect::<Vec<_>>()));
    let v4: Vec<_> = server.queries().into_iter().filter(|query| !query.is_v6).collect();
    assert_eq!(v4.iter().map(|query| query.by_tcp).collect::<Vec<_>>(), [false, true]);
}

#[tokio::test(flavor = "multi_thread")]
async fn tcp_that_fails_is_followed_by_the_next_name_server() {
    let good = NameServer::of(Zone::default().with(HOST, &["127.0.0.2"])).await;
    let rows: [(&str, Script); 5] = [
        ("silence", |_| vec![]),
        ("SERVFAIL", |query| vec![query.refusal(RCODE::ServerFailure).into()]),
        ("truncated again", |query| {
            let mut reply = query.reply();
            reply.set_flags(PacketFlag::TRUNCATION);
            vec![reply.into()]
        }),
        ("another question", |query| vec![query.reply_about("other.example").into()]),
        ("nothing", |_| vec![Say::Bytes(vec![0, 0])]),
    ];
    for (row, by_tcp) in rows {
        let failing = name_server(move |query| {
            let mut reply = query.reply();
            reply.set_flags(PacketFlag::TRUNCATION);
            if query.by_tcp { by_tcp(query) } else { vec![reply.into()] }
        })
        .await;
        let found = resolver(&[&failing, &good], "options timeout:1").look_up(HOST, within(LONG));
        assert_eq!(found.expect(row), addresses(&["127.0.0.2"]), "{row}");
        assert!(failing.queries().iter().any(|query| query.by_tcp), "{row}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_datagram_is_read() {
    let many: Vec<_> = (1..=100).map(|host| format!("127.0.1.{host}")).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    let server = NameServer::of(Zone::default().with(HOST, &many)).await;
    assert_eq!(look_up(&server).expect("addresses"), addresses(&many[..16]));
    assert!(server.queries().iter().all(|query| !query.by_tcp));
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_option_use_vc_everything_goes_over_tcp() {
    let server = NameServer::of(Zone::default().with(HOST, &["::1"])).await;
    let found = resolver(&[&server], "options use-vc").look_up(HOST, within(LONG)).expect("an address");
    assert_eq!(found, addresses(&["::1"]));
    assert_eq!(server.queries().iter().map(|query| query.by_tcp).collect::<Vec<_>>(), [true, true]);
}

#[tokio::test(flavor = "multi_thread")]
async fn aliases_are_followed_and_addresses_of_other_names_are_not_used() {
    let two = || "127.0.0.2".parse().expect("an address");
    let nine = || "127.0.0.9".parse().expect("an address");
    let chain = |length: usize| -> Vec<_> {
        let name = |place: usize| if place == 0 { HOST.to_owned() } else { format!("a{place}.example") };
        let aliases = (0..length).map(|place| alias(&name(place), &name(place + 1)));
        aliases.chain([address(&name(length), two())]).collect()
    };
    let reversed = chain(3).into_iter().rev().collect();
    let rows = [
        ("one", chain(1), Ok("127.0.0.2")),
        ("eight", chain(8), Ok("127.0.0.2")),
        ("the other way round", reversed, Ok("127.0.0.2")),
        ("too many", chain(50), Err("cannot be read")),
        ("another case", vec![alias("MODEL.example", "B.example"), address("b.EXAMPLE", two())], Ok("127.0.0.2")),
        ("a stranger", vec![address("other.example", nine()), address(HOST, two())], Ok("127.0.0.2")),
        ("only strangers", vec![address("other.example", nine())], Err("has no address")),
        (
            "beside an alias",
            vec![alias(HOST, "b.example"), address(HOST, nine()), address("b.example", two())],
            Ok("127.0.0.2"),
        ),
        ("to nothing", vec![alias(HOST, "b.example")], Err("has no address")),
        ("to itself", vec![alias(HOST, HOST), address(HOST, nine())], Err("cannot be read")),
        ("in a circle", vec![alias(HOST, "b.example"), alias("b.example", HOST)], Err("cannot be read")),
    ];
    for (row, records, expected) in rows {
        let server = name_server(move |query| {
            let mut reply = query.reply();
            let of_family = |record: &&simple_dns::ResourceRecord<'static>| match record.rdata {
                simple_dns::rdata::RData::A(_) => !query.is_v6,
                _ => true,
            };
            reply.answers.extend(records.iter().filter(of_family).cloned());
            vec![reply.into()]
        })
        .await;
        match (look_up(&server), expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, addresses(&[expected]), "{row}"),
            (Err(error), Err(expected)) => assert!(error.to_string().contains(expected), "{row}: {error}"),
            (found, _) => panic!("{row}: {found:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_not_a_reply_to_the_question_is_ignored() {
    fn forged(reply: simple_dns::Packet<'static>) -> simple_dns::Packet<'static> {
        let mut reply = reply;
        reply.answers.push(address(HOST, "127.0.0.9".parse().expect("an address")));
        reply
    }
    let rows: [(&str, Script); 12] = [
        ("another id", |query| {
            let mut reply = forged(query.reply());
            reply.set_id(query.id ^ 1);
            vec![reply.into()]
        }),
        ("another question", |query| vec![forged(query.reply_about("other.example")).into()]),
        ("a denial of another name", |query| {
            let mut reply = query.reply_about("other.example");
            *reply.rcode_mut() = RCODE::NameError;
            vec![reply.into()]
        }),
        ("another family", |query| vec![forged(Query { is_v6: !query.is_v6, ..query.clone() }.reply()).into()]),
        ("two questions", |query| {
            let mut reply = forged(query.reply());
            reply.questions.push(reply.questions[0].clone());
            vec![reply.into()]
        }),
        ("no question", |query| {
            let mut reply = forged(query.reply());
            reply.questions.clear();
            vec![reply.into()]
        }),
        ("a denial without a question", |query| {
            let mut reply = query.refusal(RCODE::NameError);
            reply.questions.clear();
            vec![reply.into()]
        }),
        ("the question itself", |query| {
            let mut message = query.reply().build_bytes_vec().expect("a message");
            message[2] &= 0x7f;
            vec![Say::Message(message)]
        }),
        ("another kind of message", |query| {
            let mut message = forged(query.reply()).build_bytes_vec().expect("a message");
            message[2] |= 0x28;
            vec![Say::Message(message)]
        }),
        ("a pointer to itself", |query| {
            let mut message = query.reply().build_bytes_vec().expect("a message");
            message.splice(12.., [0xc0, 12, 0, 1, 0, 1]);
            vec![Say::Message(message)]
        }),
        ("no message", |query| {
            let id = query.id.to_be_bytes();
            [&[][..], &id, &[id[0], id[1], 0x81, 0x80, 0, 1], &[0xff; 600]]
                .map(|bytes| Say::Message(bytes.to_vec()))
                .to_vec()
        }),
        ("somebody else", |query| {
            let Say::Message(message) = Say::from(forged(query.reply())) else { unreachable!() };
            vec![Say::FromElsewhere(message)]
        }),
    ];
    for (row, first) in rows {
        let server = after(first).await;
        assert_eq!(look_up(&server).expect(row), addresses(&["127.0.0.7"]), "{row}");
        assert_eq!(server.queried(2).await.len(), 2, "{row}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_may_have_the_question_in_another_case() {
    let server = name_server(|query| {
        let mut reply = query.reply_about("MODEL.Example");
        if !query.is_v6 {
            reply.answers.push(address("modeL.examplE", "127.0.0.2".parse().expect("an address")));
        }
        vec![reply.into()]
    })
    .await;
    assert_eq!(look_up(&server).expect("an address"), addresses(&["127.0.0.2"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_look_up_without_any_answer_ends_at_the_deadline() {
    let short = Duration::from_millis(300);
    let silent = [name_server(|_| vec![]).await, name_server(|_| vec![]).await];
    let error =
        resolver(&[&silent[0], &silent[1]], "").look_up(HOST, within(6 * short)).expect_err("no server answers");
    assert!(matches!(error.cause, Cause::OutOfTime), "{error}");
    // They share the time, so none of them gets all of it.
    for server in silent {
        assert_eq!(server.queried(4).await.len(), 4);
    }

    let dribbling =
        name_server(
            |query| if query.by_tcp { vec![Say::Bytes(vec![1, 0, query.id.to_be_bytes()[0]])] } else { vec![] },
        )
        .await;
    let strangers = after(|_| vec![]).await;
    let strange = name_server(|query| vec![query.reply_about("other.example").into()]).await;
    let denying_late =
        name_server(|query| if query.name == HOST { vec![query.refusal(RCODE::NameError).into()] } else { vec![] })
            .await;
    let rows = [
        ("a part by TCP", &dribbling, "options use-vc"),
        ("only strangers", &strange, ""),
        ("the second of two names", &denying_late, "search example"),
    ];
    for (row, server, conf) in rows {
        let error = resolver(&[server], conf).look_up(HOST, within(short)).expect_err(row);
        assert!(matches!(error.cause, Cause::OutOfTime), "{row}: {error}");
        assert!(error.to_string().contains(HOST), "{row}: {error}");
    }
    let error = resolver(&[&strangers], "").look_up(HOST, Some(Instant::now())).expect_err("no time");
    assert!(matches!(error.cause, Cause::OutOfTime), "{error}");
    assert_eq!(strangers.queries().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_known_at_the_deadline_are_used() {
    let server =
        name_server(
            |query| {
                if query.is_v6 { vec![Zone::default().with(HOST, &["::1"]).reply(query).into()] } else { vec![] }
            },
        )
        .await;
    let found = resolver(&[&server], "").look_up(HOST, within(Duration::from_millis(300))).expect("an address");
    assert_eq!(found, addresses(&["::1"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_option_rotate_every_name_server_comes_first_at_times() {
    let zone = Zone::default().with(HOST, &["127.0.0.2"]);
    let servers = [NameServer::of(zone.clone()).await, NameServer::of(zone).await];
    let nameservers = [&servers[0], &servers[1]];
    for _ in 0..64 {
        resolver(&nameservers, "options rotate").look_up(HOST, within(LONG)).expect("an address");
    }
    assert!(servers.iter().all(|server| !server.queries().is_empty()));
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_and_ports_are_never_the_same_twice() {
    let server = NameServer::of(Zone::default().with(HOST, &["127.0.0.2"])).await;
    for _ in 0..64 {
        look_up(&server).expect("an address");
    }
    let queries = server.queried(128).await;
    let distinct = |mut values: Vec<u16>| {
        values.sort_unstable();
        values.dedup();
        values.len()
    };
    // A few may be equal by chance.
    assert!(distinct(queries.iter().map(|query| query.id).collect()) >= 120);
    assert!(distinct(queries.windows(2).map(|pair| pair[0].id.wrapping_sub(pair[1].id)).collect()) >= 100);
    assert!(distinct(queries.iter().map(|query| query.client.port()).collect()) >= 32);
}

/// A file with this content, which is removed when this is dropped.
struct File(PathBuf);

impl File {
    fn of(content: &[u8]) -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(Uuid::new_v4().to_string());
        std::fs::write(&path, content).expect("the file is written");
        Self(path)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn a_resolv_conf_may_be_missing_or_damaged() {
    type Row<'a> = (&'a [u8], &'a [&'a str], &'a [&'a str], [u32; 3]);
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let missing = directory.join("no such file");
    for path in [missing.as_path(), directory] {
        let resolver = Resolver::from_files(path, path);
        assert_eq!((resolver.hosts.as_str(), resolver.nameservers.len()), ("", 0));
        assert_eq!(resolver.look_up("localhost", None).expect("this machine"), addresses(&["127.0.0.1", "::1"]));
    }

    let rows: [Row; 6] = [
        (b"", &[], &[], [1, 5, 2]),
        (b"nameserver 192.0.2.1\nnameserver 2001:db8::1\n", &["192.0.2.1:53", "[2001:db8::1]:53"], &[], [1, 5, 2]),
        (
            b"nameserver 192.0.2.1\r\nnameserver 192.0.2.2 # second\nnameserver 192.0.2.3\nnameserver 192.0.2.4",
            &["192.0.2.1:53", "192.0.2.2:53", "192.0.2.3:53"],
            &[],
            [1, 5, 2],
        ),
        (
            b"; generated by /usr/sbin/dhclient-script\nsearch eu-west-1.compute.internal\noptions timeout:2 attempts:5\nnameserver 169.254.78.1\n",
            &["169.254.78.1:53"],
            &["eu-west-1.compute.internal"],
            [1, 2, 5],
        ),
        (
            b"nameserver\nnameserver nobody\n\xff\xfe\nsearch\tone two\noptions ndots:x timeout: attempts:-1 nonsense ndots:3\nwhat\nnameserver 192.0.2.1",
            &["192.0.2.1:53"],
            &["one", "two"],
            [3, 5, 2],
        ),
        (b"\0\0\0\xff", &[], &[], [1, 5, 2]),
    ];
    for (content, nameservers, search, options) in rows {
        let row = content.escape_ascii();
        let (hosts, file) = (File::of(b"127.0.0.2 a\n\xff\n127.0.0.3 b"), File::of(content));
        let resolver = Resolver::from_files(&hosts.0, &file.0);
        let found: Vec<_> = resolver.nameservers.iter().map(ToString::to_string).collect();
        assert_eq!(found, nameservers, "{row}");
        assert_eq!(resolver.config.get_last_search_or_domain().collect::<Vec<_>>(), search, "{row}");
        let Config { ndots, timeout, attempts, .. } = resolver.config;
        assert_eq!([ndots, timeout, attempts], options, "{row}");
        assert_eq!(resolver.look_up("b", None).expect("it is in the file"), addresses(&["127.0.0.3"]), "{row}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_function_reaches_its_servers_by_name() {
    let backends = Backends::start().await;
    let by_name = |url: String| url.replace("127.0.0.1", "localhost");
    let (engine, model) = (backends.engine.clone().expect("an engine"), backends.model.clone().expect("a model"));
    let variables =
        [("AWS_ENDPOINT_URL_DYNAMODB", by_name(engine.url())), ("OPENAI_BASE_URL", by_name(model.base_url()))];
    let stack = share(&backends, &variables.each_ref().map(|(name, value)| (*name, value.as_str()))).await;
    begin(&stack, &["one", "two"]).await;
    assert_eq!(model.calls()[0].headers["host"].to_str().expect("text").split(':').next(), Some("localhost"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_names_the_host_that_has_no_address_and_the_reason() {
    let backends = Backends::start().await;
    let stack = share(&backends, &[("OPENAI_BASE_URL", "http://model..example/v1")]).await;
    let reply = send(&stack, &chat_event(&serde_json::json!({"message": "Hello"}), &[])).await;
    assert_eq!(reply.problem(), (503, "model_unavailable"));
    assert!(!reply.body.to_string().contains("example"), "{reply:?}");
    let line = stack.function.logged(reply.header("x-request-id").expect("an id")).await;
    assert!(line.contains(r#"\"model..example\" cannot be the name of a host"#), "{line}");
}

/// A question as the function asks it, and as the tests' name server reads it.
fn question(family: Family) -> (Asked, Query) {
    let asked = Asked::new(&Name::vec_from_str(HOST).expect("a name"), family).expect("random numbers");
    let packet = simple_dns::Packet::parse(asked.as_bytes()).expect("a message");
    let query =
        Query { id: packet.id(), name: HOST.to_owned(), is_v6: family == Family::V6, by_tcp: false, client: NOBODY };
    (asked, query)
}

#[test]
fn a_question_is_written_as_rfc_1035_says() {
    for (family, kind) in [(Family::V4, 1), (Family::V6, 28)] {
        let (asked, query) = question(family);
        let name = b"\x05model\x07example\x00";
        let rest = [&[1, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], name, &[0, kind, 0, 1]].concat();
        assert_eq!(asked.as_bytes(), [&query.id.to_be_bytes(), rest.as_slice()].concat());
    }
}

/// A message that begins as a reply to `query`, with any bytes after that.
fn any_reply(query: &Query, counts: [u16; 3], flags: u16, rest: &[u8]) -> Vec<u8> {
    let mut message = query.reply().build_bytes_vec().expect("a message");
    message[2..4].copy_from_slice(&flags.to_be_bytes());
    for (place, count) in counts.iter().enumerate() {
        message[6 + 2 * place..8 + 2 * place].copy_from_slice(&count.to_be_bytes());
    }
    message.extend(rest);
    message
}

/// Bytes with more names, pointers and records in them than random bytes have.
fn any_records() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        any::<Vec<u8>>(),
        (0..=255_u8).prop_map(|at| vec![0xc0, at]),
        (0x40..=0xff_u8, any::<u8>()).prop_map(|(high, low)| vec![high, low]),
        (1..=63_u8).prop_map(|length| [vec![length], vec![b'a'; length.into()]].concat()),
        Just(b"\x05model\x07example\x00".to_vec()),
        prop::sample::select(vec![1_u8, 5, 28, 41]).prop_map(|kind| vec![0, kind, 0, 1, 0, 0, 0, 60]),
        (0..=20_u8).prop_map(|length| vec![0, length]),
    ];
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

proptest! {
    // A case that was found belongs in a table with a name, not in a file of seeds.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_are_not_a_reply(bytes in any::<Vec<u8>>()) {
        let (asked, query) = question(Family::V4);
        prop_assume!(!bytes.starts_with(&query.id.to_be_bytes()));
        prop_assert_eq!(asked.reply(&bytes), None);
    }

    #[test]
    fn any_records_are_read_to_an_end(
        counts in any::<[u16; 3]>(), flags in prop_oneof![Just(0x8180_u16), any::<u16>()], rest in any_records(), is_v6 in any::<bool>(),
    ) {
        let (asked, query) = question(if is_v6 { Family::V6 } else { Family::V4 });
        if let Some(Reply::Answer(Answer::Addresses(addresses))) = asked.reply(&any_reply(&query, counts, flags, &rest)) {
            prop_assert!(addresses.len() <= rest.len());
            prop_assert!(addresses.iter().all(|address| address.is_ipv6() == is_v6));
        }
    }

    #[test]
    fn what_another_library_writes_is_read(
        found in prop::collection::vec((any::<[u8; 16]>(), prop::sample::select(vec![HOST, "end.example", "other.example"])), 0..40),
        is_alias in any::<bool>(), is_v6 in any::<bool>(), is_compressed in any::<bool>(),
    ) {
        let (asked, query) = question(if is_v6 { Family::V6 } else { Family::V4 });
        let ip = |bytes: &[u8; 16]| if is_v6 { IpAddr::from(*bytes) } else { IpAddr::from(<[u8; 4]>::try_from(&bytes[..4]).expect("four")) };
        let mut reply = query.reply();
        reply.answers.extend(found.iter().map(|(bytes, name)| address(name, ip(bytes))));
        if is_alias {
            reply.answers.insert(found.len() / 2, alias(HOST, "end.example"));
        }
        let message = if is_compressed { reply.build_bytes_vec_compressed() } else { reply.build_bytes_vec() }.expect("a message");
        let owner = if is_alias { "end.example" } else { HOST };
        let expected = found.iter().filter(|(_, name)| *name == owner).map(|(bytes, _)| ip(bytes)).collect();
        prop_assert_eq!(asked.reply(&message), Some(Reply::Answer(Answer::Addresses(expected))));
        // With one byte less, none of it counts.
        if !found.is_empty() {
            prop_assert_eq!(asked.reply(&message[..message.len() - 1]), Some(Reply::Unusable(Unusable::Malformed)));
        }
    }

    #[test]
    fn a_message_with_a_byte_changed_is_read_to_an_end(at in any::<prop::sample::Index>(), value in any::<u8>()) {
        let (asked, query) = question(Family::V4);
        let mut reply = query.reply();
        reply.answers.extend([alias(HOST, "a.example"), alias("a.example", "b.example"), address("b.example", IpAddr::from([127, 0, 0, 2]))]);
        let mut message = reply.build_bytes_vec_compressed().expect("a message");
        let at = at.index(message.len());
        message[at] = value;
        let _ = asked.reply(&message);
    }

    #[test]
    fn any_files_are_read(hosts in any::<Vec<u8>>(), conf in prop_oneof![
        any::<Vec<u8>>(),
        "((nameserver|search|domain|options|sortlist)[ \t]+([0-9a-f.:%]{0,20}|(ndots|timeout|attempts):[0-9-]{0,12}|rotate|[a-z.,]{0,20})( \\PC{0,5})?(\n|;|#|\r\n)){0,8}".prop_map(String::into_bytes),
    ]) {
        let (hosts, conf) = (File::of(&hosts), File::of(&conf));
        let resolver = Resolver::from_files(&hosts.0, &conf.0);
        prop_assert!(resolver.nameservers.len() <= 3);
        // No name server is queried, because there is no time.
        let error = resolver.look_up("no.such.host.in.there", Some(Instant::now())).expect_err("no server is asked");
        prop_assert!(matches!(error.cause, Cause::OutOfTime), "{error}");
    }
}
