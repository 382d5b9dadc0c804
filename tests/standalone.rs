//! The program as it is uploaded, alone in a root directory. It needs only the machine's kernel,
//! and no file, library or program.

use std::env;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use local_stack::function::FunctionOptions;
use local_stack::name_server::{NameServer, Zone};
use local_stack::{Backends, LocalOptions, LocalStack};
use serde_json::json;
use uuid::Uuid;

use crate::support::client::{begin, read};
use crate::support::in_process::event;

/// The name server that is used if `resolv.conf` names none.
const NAME_SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 53);

/// A root directory with `/bootstrap` in it, which exists as long as this.
struct Root(PathBuf);

impl Root {
    fn with(program: &Path, files: &[(&str, &str)]) -> Self {
        let root = Self(Path::new(env!("CARGO_TARGET_TMPDIR")).join(Uuid::new_v4().to_string()));
        fs::create_dir(&root.0).expect("a directory");
        fs::copy(program, root.0.join("bootstrap")).unwrap_or_else(|error| panic!("{}: {error}", program.display()));
        fs::set_permissions(root.0.join("bootstrap"), fs::Permissions::from_mode(0o755)).expect("it may be run");
        for (path, content) in files {
            let path = root.0.join(path);
            fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
            fs::write(path, content).expect("a file");
        }
        root
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs BOOTSTRAP, the path of the program that build.sh makes, the right to chroot(2) and port 53: see .ci/run"]
async fn the_program_runs_in_an_empty_root_and_finds_its_servers_by_name() {
    type Row<'a> = (&'a [(&'a str, &'a str)], [&'a str; 2], &'a [&'a str]);
    let program = PathBuf::from(env::var_os("BOOTSTRAP").expect("BOOTSTRAP is the path of the program"));
    let zone = ["model.example", "table.example", "model.corp.example"]
        .into_iter()
        .fold(Zone::default(), |zone, name| zone.with(name, &["127.0.0.1"]));
    let name_server = NameServer::start_at(NAME_SERVER, zone).await.expect("port 53 of 127.0.0.1 is free");

    let resolv_conf = ("etc/resolv.conf", "search corp.example\nnameserver 127.0.0.1\n");
    let hosts = ("etc/hosts", "127.0.0.1 localhost table.in.hosts\n");
    let rows: [Row; 2] = [
        (&[], ["model.example", "table.example"], &["model.example", "table.example"]),
        (&[resolv_conf, hosts], ["model", "table.in.hosts"], &["model.corp.example"]),
    ];
    for (files, [model, table], asked) in rows {
        let root = Root::with(&program, files);
        let backends = Backends::start().await;
        let mut function = FunctionOptions::new("chroot");
        function.args = vec![root.0.clone().into(), "/bootstrap".into()];
        function.env.insert("PATH".to_owned(), "/usr/sbin:/usr/bin:/sbin:/bin".into());
        for (name, url) in backends.variables() {
            let host = if name == "OPENAI_BASE_URL" { model } else { table };
            function.env.insert(name.to_owned(), url.replace("127.0.0.1", host).into());
        }
        let options = LocalOptions { function, ..LocalOptions::new(&program) };
        let stack = LocalStack::start(options.with_backends(backends)).await.expect("the stack starts");

        let already = name_server.queries().len();
        assert_eq!(stack.answer(&event("GET", "/health", &[])).await["statusCode"], 200, "{files:?}");
        assert_eq!(name_server.queries().len(), already, "{files:?}");
        let id = begin(&stack, &["one", "two"]).await;
        assert_eq!(read(&stack, &id, "").await.body["turns"], json!(2), "{files:?}");
        let mut names: Vec<_> = name_server.queries().into_iter().skip(already).map(|query| query.name).collect();
        names.sort();
        names.dedup();
        assert_eq!(names, asked, "{files:?}");
        stack.stop().await;
        assert_eq!(fs::read_dir(&root.0).expect("it is there").count(), 1 + usize::from(!files.is_empty()));
    }
}
