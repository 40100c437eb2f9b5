//! Images pulled from a real registry, and from one that lies.

mod support;

use std::{
    fs,
    io::{Read, Write},
    net::TcpListener,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use bulkhead_images::{
    Digest, Error, Keyring, Limits, Name, Progress, ProgressFn, PullOptions, Reason, RegistryAuth,
    Store,
};
use support::{Layout, Registry, TestLayer, busybox, gzip, reserved_port, tar};

async fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).await.unwrap();
    (dir, store)
}

async fn pull(store: &Store, name: &str) -> Result<bulkhead_images::Image, Error> {
    store.pull(name, PullOptions::default(), None).await
}

#[tokio::test]
async fn an_image_is_pulled_with_all_its_layers() {
    let registry = Registry::start();
    let layers = [
        TestLayer::gzip(&busybox()),
        TestLayer::gzip(&tar(&[("etc/motd", b"hello")])),
        TestLayer::gzip(&tar(&[("etc/.wh.motd", b"")])),
    ];
    let name = registry.push(&Layout::of("app", &layers), "app:1");
    let (_dir, store) = store().await;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let report: ProgressFn = {
        let seen = seen.clone();
        Arc::new(move |progress: Progress| seen.lock().unwrap().push(progress))
    };
    let image = store.pull(&name, PullOptions::default(), Some(report)).await.unwrap();
    assert_eq!(image.references, [name.as_str()]);
    assert_eq!(image.config.cmd.as_deref(), Some(&["/bin/sh".to_owned()][..]));
    let diff_ids: Vec<_> = image.layers.iter().map(|layer| layer.diff_id).collect();
    assert_eq!(diff_ids, layers.each_ref().map(|layer| layer.diff_id));
    for layer in &image.layers {
        assert_eq!(fs::metadata(&layer.path).unwrap().len(), layer.size);
        assert_eq!(layer.size % 4096, 0);
        support::run("fsck.erofs", &[layer.path.to_str().unwrap()]);
    }
    let seen = std::mem::take(&mut *seen.lock().unwrap());
    let last = seen.iter().max_by_key(|progress| progress.layers_done).unwrap();
    assert_eq!((last.layers_done, last.layers), (3, 3));
    assert_eq!(seen.iter().map(|progress| progress.bytes).max().unwrap(), last.total);
    assert_eq!(store.resolve(&name).await.unwrap(), Some(image.clone()));
    assert_eq!(store.resolve(&image.id.to_string()).await.unwrap(), Some(image));
}

#[tokio::test]
async fn layers_that_are_here_are_not_fetched() {
    let registry = Registry::start();
    let layer = || TestLayer::gzip(&tar(&[("a", b"shared")]));
    let first = registry.push(&Layout::of("x", &[layer()]), "first:1");
    let layers = [layer(), TestLayer::gzip(&tar(&[("b", b"own")]))];
    let second = registry.push(&Layout::of("x", &layers), "second:1");
    let (_dir, store) = store().await;
    pull(&store, &first).await.unwrap();
    fs::remove_file(registry.stored(Digest::of(&layer().blob))).unwrap();
    let image = pull(&store, &second).await.unwrap();
    assert_eq!(image.layers.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn pulls_of_one_image_at_once_fetch_it_once() {
    let registry = Registry::start();
    let layer = TestLayer::gzip(&busybox());
    let size = layer.blob.len() as u64;
    let name = registry.push(&Layout::of("x", &[layer]), "app:1");
    let (_dir, store) = store().await;
    let read = Arc::new(Mutex::new(0));
    let pulls = (0..8).map(|_| {
        let (store, name, read) = (store.clone(), name.clone(), read.clone());
        tokio::spawn(async move {
            let steps = Arc::new(Mutex::new(0));
            let count = steps.clone();
            let report: ProgressFn = Arc::new(move |_| *count.lock().unwrap() += 1);
            store.pull(&name, PullOptions::default(), Some(report)).await.unwrap();
            // A layer that is there already is reported in one step, and then as done.
            *read.lock().unwrap() += u32::from(*steps.lock().unwrap() > 2);
        })
    });
    for pull in pulls.collect::<Vec<_>>() {
        pull.await.unwrap();
    }
    assert!(size > 100_000, "the layer comes in several reads");
    assert_eq!(*read.lock().unwrap(), 1);
}

#[tokio::test]
async fn of_several_platforms_linux_amd64_is_taken() {
    let registry = Registry::start();
    let layout = Layout::new();
    let [arm, amd] = ["arm64", "amd64"].map(|architecture| {
        let layer = TestLayer::gzip(&tar(&[("arch", architecture.as_bytes())]));
        (architecture, layout.image(&[layer], architecture))
    });
    layout.index("app", layout.multi(&[arm.clone(), amd]));
    let name = registry.push(&layout, "multi:1");
    let (_dir, store) = store().await;
    let image = pull(&store, &name).await.unwrap();
    assert_eq!(image.layers[0].diff_id, Digest::of(&tar(&[("arch", b"amd64")])));

    layout.index("app", layout.multi(&[arm]));
    let name = registry.push(&layout, "foreign:1");
    let error = pull(&store, &name).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("cannot pull {name}: there is no linux/amd64 among its platforms")
    );
}

#[tokio::test]
async fn a_name_by_digest_is_pulled() {
    let registry = Registry::start();
    let layout = Layout::of("x", &[TestLayer::gzip(&tar(&[("a", b"")]))]);
    registry.push(&layout, "app:1");
    let index: serde_json::Value =
        serde_json::from_slice(&fs::read(layout.path().join("index.json")).unwrap()).unwrap();
    let digest = index["manifests"][0]["digest"].as_str().unwrap();
    let name = registry.name(&format!("app@{digest}"));
    let (_dir, store) = store().await;
    pull(&store, &name).await.unwrap();
    assert!(store.resolve(&name).await.unwrap().is_some());
}

#[tokio::test]
async fn what_the_registry_does_not_have_is_an_err_image_pull() {
    let registry = Registry::start();
    let (_dir, store) = store().await;
    let name = registry.name("missing:1");
    let error = pull(&store, &name).await.unwrap_err();
    assert_eq!(error.reason(), Reason::ErrImagePull);
    assert!(error.to_string().contains(&name), "{error}");
    assert!(!error.to_string().contains('\n'), "{error}");
    assert!(store.list().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_registry_that_is_not_there_is_unavailable() {
    let (_reserved, port) = reserved_port();
    let (_dir, store) = store().await;
    let name = format!("127.0.0.1:{port}/app:1");
    let error = pull(&store, &name).await.unwrap_err();
    assert_eq!(error.reason(), Reason::RegistryUnavailable);
    let start = format!("cannot reach registry 127.0.0.1:{port} for {name}: ");
    assert!(error.to_string().starts_with(&start), "{error}");
}

#[tokio::test]
async fn names_that_are_not_are_told_apart() {
    let (_dir, store) = store().await;
    let error = pull(&store, "Not An Image").await.unwrap_err();
    assert_eq!(error.reason(), Reason::InvalidImageName);
    let error = store.require("busybox").await.unwrap_err();
    assert_eq!(error.reason(), Reason::ErrImageNeverPull);
}

#[tokio::test]
async fn a_blob_that_changed_in_the_registry_is_refused() {
    let registry = Registry::start();
    let good = TestLayer::gzip(&tar(&[("a", b"good")]));
    let digest = Digest::of(&good.blob);
    let name = registry.push(&Layout::of("x", &[good]), "app:1");
    fs::write(registry.stored(digest), gzip(&tar(&[("a", b"evil")]))).unwrap();
    let (dir, store) = store().await;
    let error = pull(&store, &name).await.unwrap_err();
    assert_eq!(error.reason(), Reason::ErrImagePull);
    assert_eq!(fs::read_dir(dir.path().join("layers")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
}

#[tokio::test]
async fn a_registry_with_tls_and_users_wants_both() {
    let registry = Registry::start_secured();
    let name = registry.push(&Layout::of("x", &[TestLayer::gzip(&tar(&[("a", b"")]))]), "app:1");
    let (_dir, store) = store().await;
    let (user, password) = support::USER;
    let with = |authorities: Option<Vec<u8>>, password: &str| PullOptions {
        authorities,
        auth: RegistryAuth::Basic(user.into(), password.into()),
        ..PullOptions::default()
    };
    let certificate = Some(registry.certificate());
    let anonymous = PullOptions { authorities: certificate.clone(), ..PullOptions::default() };
    for (options, expected) in [
        (anonymous, "refuses these credentials, or wants some"),
        (with(certificate.clone(), "wrong"), "refuses these credentials"),
        (with(None, password), "HTTP"),
        (with(Some(b"no certificate".to_vec()), password), "certificate"),
    ] {
        let error = store.pull(&name, options, None).await.unwrap_err().to_string();
        assert!(error.contains(expected) && !error.contains('\n'), "{expected}: {error}");
    }
    store.pull(&name, with(certificate.clone(), password), None).await.unwrap();

    // As a Secret has them, for its host and for one of its repositories.
    let registry = name.split('/').next().unwrap();
    let config = serde_json::json!({"auths": {
        format!("{registry}/app"): {"username": user, "password": password},
        registry: {"username": user, "password": "wrong"},
    }});
    let mut keyring = Keyring::default();
    keyring.add_config(config.to_string().as_bytes()).unwrap();
    let mut found = keyring.find(&Name::parse(&name).unwrap());
    let mut pull = async || {
        let auth = found.next().unwrap();
        store
            .pull(
                &name,
                PullOptions { auth, authorities: certificate.clone(), ..PullOptions::default() },
                None,
            )
            .await
    };
    pull().await.unwrap();
    pull().await.unwrap_err();
}

/// A registry that answers each request with the next of `answers`, then with the last again.
fn registry_that_says(answers: Vec<Vec<u8>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let mut answers = answers.into_iter().peekable();
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            let length = connection.read(&mut [0; 4096]).unwrap_or(0);
            let Some(answer) = answers.peek().cloned() else { return };
            if answers.len() > 1 {
                answers.next();
            }
            // Who has heard enough hangs up.
            drop((length, connection.write_all(&answer)));
        }
    });
    format!("127.0.0.1:{port}/app:1")
}

fn answer(status: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status}\r\nConnection: close\r\n\r\n");
    [head.as_bytes(), body].concat()
}

#[tokio::test]
async fn a_manifest_is_read_no_further_than_its_bound() {
    let ping = answer("200 OK", b"");
    let name = registry_that_says(vec![ping, answer("200 OK", &vec![b' '; 64 << 20])]);
    let (_dir, store) = store().await;
    let error = pull(&store, &name).await.unwrap_err().to_string();
    assert!(error.contains("the manifest is over the limit of 4194304 bytes"), "{error}");
}

#[tokio::test]
async fn a_registry_that_is_busy_is_asked_again() {
    let ping = || answer("200 OK", b"");
    let busy = answer("503 Service Unavailable", b"busy");
    let missing = answer("404 Not Found", br#"{"errors": [{"code": "MANIFEST_UNKNOWN"}]}"#);
    let name = registry_that_says(vec![ping(), busy, ping(), missing]);
    let (_dir, store) = store().await;
    let error = pull(&store, &name).await.unwrap_err();
    assert_eq!(error.reason(), Reason::ErrImagePull, "it has answered in the end: {error}");
}

#[tokio::test]
async fn a_pull_that_is_given_up_leaves_nothing() {
    // A registry that sends a manifest, a config and then half a layer, and waits.
    let layer = TestLayer::plain(tar(&[("a", &[1; 1 << 20])]));
    let layout = Layout::of("x", &[layer]);
    let blobs = layout.path().join("blobs/sha256");
    let index: serde_json::Value =
        serde_json::from_slice(&fs::read(layout.path().join("index.json")).unwrap()).unwrap();
    let manifest = index["manifests"][0]["digest"].as_str().unwrap()[7..].to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let mut open = Vec::new();
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            let mut request = [0; 4096];
            let length = connection.read(&mut request).unwrap_or(0);
            let request = String::from_utf8_lossy(&request[..length]).into_owned();
            let path = request.split(' ').nth(1).unwrap_or("").to_owned();
            let hex = path.rsplit_once("sha256:").map_or(manifest.as_str(), |(_, hex)| hex);
            let body = match path.as_str() {
                "/v2/" => Vec::new(),
                _ => fs::read(blobs.join(hex)).unwrap(),
            };
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\
                 Docker-Content-Digest: sha256:{hex}\r\n\r\n",
                body.len()
            );
            let half = if body.len() > 100_000 { body.len() / 2 } else { body.len() };
            drop(connection.write_all(&[head.as_bytes(), &body[..half]].concat()));
            if half < body.len() {
                open.push(connection);
            }
        }
    });
    let (dir, store) = store().await;
    let name = format!("127.0.0.1:{port}/app:1");
    let waited = tokio::time::timeout(Duration::from_secs(2), pull(&store, &name)).await;
    assert!(waited.is_err(), "the layer never ends: {waited:?}");
    let began = Instant::now();
    while fs::read_dir(dir.path().join("tmp")).unwrap().count() > 0 {
        assert!(began.elapsed() < Duration::from_secs(120), "what was begun is left");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(store.list().await.unwrap().is_empty());
}

#[tokio::test]
async fn bounds_hold() {
    let registry = Registry::start();
    let bomb = TestLayer::gzip(&tar(&[("zeros", &vec![0; 8 << 20])]));
    let name = registry.push(&Layout::of("x", &[bomb]), "bomb:1");
    let halves = ["a", "b"].map(|path| TestLayer::gzip(&tar(&[(path, &vec![0; 3 << 20])])));
    let together = registry.push(&Layout::of("x", &halves), "together:1");
    let many: Vec<_> = (0..5).map(|n| TestLayer::gzip(&tar(&[("n", &[b'0' + n][..])]))).collect();
    let tall = registry.push(&Layout::of("x", &many), "tall:1");
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits { unpacked: 4 << 20, layers: 4, ..Limits::default() };
    let store = Store::open_with(dir.path(), limits).await.unwrap();
    for name in [name, together] {
        let error = pull(&store, &name).await.unwrap_err();
        let limit = 4 << 20;
        let expected =
            format!("cannot pull {name}: the unpacked image is over the limit of {limit} bytes");
        assert_eq!(error.to_string(), expected);
    }
    let error = pull(&store, &tall).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("cannot pull {tall}: the image is over the limit of 4 layers")
    );
    assert!(store.list().await.unwrap().is_empty());
}
