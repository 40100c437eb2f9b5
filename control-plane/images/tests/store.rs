//! Images loaded from files, kept, and removed again.

mod support;

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use bulkhead_images::{Digest, Error, Image, Limits, Store};
use serde_json::json;
use support::{Layout, TestLayer, busybox, gzip, run, tar};

async fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).await.unwrap();
    (dir, store)
}

/// The image of one small layer.
fn small(content: &str) -> Layout {
    Layout::of("example.org/small:1", &[TestLayer::gzip(&tar(&[("a", content.as_bytes())]))])
}

async fn import(store: &Store, path: &Path, name: Option<&str>) -> Result<Image, Error> {
    store.import(path, name, None).await.map(|mut images| images.remove(0))
}

fn tar_of(dir: &Path) -> Vec<u8> {
    let output = Command::new("tar").args(["-c", "-C"]).arg(dir).arg(".").output().unwrap();
    assert!(output.status.success());
    output.stdout
}

fn files(dir: &Path) -> BTreeSet<String> {
    let names = fs::read_dir(dir).unwrap();
    names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[tokio::test]
async fn a_layout_is_loaded_from_a_directory_a_tar_and_a_stream() {
    let layers = [
        TestLayer::plain(tar(&[("plain", b"1")])),
        TestLayer::gzip(&tar(&[("gzip", b"2")])),
        TestLayer::zstd(&tar(&[("zstd", b"3")])),
    ];
    let layout = Layout::of("example.org/app:1", &layers);
    let (_dir, store) = store().await;
    let image = import(&store, layout.path(), None).await.unwrap();
    assert_eq!(image.references, ["example.org/app:1"]);
    assert_eq!(image.layers.len(), 3);

    let archive = tar_of(layout.path());
    let file = layout.path().join("archive");
    for (bytes, name) in [(archive.clone(), "two"), (gzip(&archive), "three")] {
        fs::write(&file, bytes).unwrap();
        let again = import(&store, &file, Some(name)).await.unwrap();
        assert_eq!((again.id, &again.layers), (image.id, &image.layers));
    }
    let streamed = store.import_stream(&archive[..], Some("four"), None).await.unwrap();
    let names = ["docker.io/library/four", "docker.io/library/three", "docker.io/library/two"];
    let mut expected = names.map(|name| format!("{name}:latest")).to_vec();
    expected.push("example.org/app:1".into());
    assert_eq!(streamed[0].references, expected);
    assert_eq!(store.list().await.unwrap(), streamed);
}

#[tokio::test]
async fn a_docker_archive_of_skopeo_s_is_loaded() {
    let layers = [TestLayer::gzip(&busybox()), TestLayer::gzip(&tar(&[("a", b"b")]))];
    let layout = Layout::of("x", &layers);
    let archive = layout.path().join("archive.tar");
    let from = format!("oci:{}", layout.path().display());
    let to = format!("docker-archive:{}:example.org/saved:2", archive.display());
    run("skopeo", &["--insecure-policy", "copy", &from, &to]);
    let (_dir, store) = store().await;
    let image = import(&store, &archive, None).await.unwrap();
    assert_eq!(image.references, ["example.org/saved:2"]);
    let diff_ids: Vec<_> = image.layers.iter().map(|layer| layer.diff_id).collect();
    assert_eq!(diff_ids, layers.each_ref().map(|layer| layer.diff_id));
}

#[tokio::test]
async fn an_image_of_umoci_s_is_loaded() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    let image = format!("{}:app", at("layout"));
    run("umoci", &["init", "--layout", &at("layout")]);
    run("umoci", &["new", "--image", &image]);
    fs::create_dir_all(at("files/etc")).unwrap();
    fs::write(at("files/etc/motd"), "hello").unwrap();
    run("umoci", &["insert", "--rootless", "--image", &image, &at("files"), "/files"]);
    run("umoci", &["config", "--image", &image, "--config.cmd", "/bin/sh"]);
    let (_dir, store) = store().await;
    let error = import(&store, dir.path().join("layout").as_path(), None).await.unwrap_err();
    assert!(error.to_string().contains("give a name"), "{error}");
    let image = import(&store, &dir.path().join("layout"), Some("app")).await.unwrap();
    assert_eq!(image.config.cmd.as_deref(), Some(&["/bin/sh".to_owned()][..]));
}

#[tokio::test]
async fn docker_s_links_between_layers_are_followed() {
    let layer = tar(&[("a", b"b")]);
    let config = json!({
        "os": "linux", "architecture": "amd64",
        "rootfs": { "type": "layers", "diff_ids": [Digest::of(&layer), Digest::of(&layer)] },
    });
    let dir = tempfile::tempdir().unwrap();
    for name in ["one", "two"] {
        fs::create_dir(dir.path().join(name)).unwrap();
    }
    fs::write(dir.path().join("one/layer.tar"), &layer).unwrap();
    std::os::unix::fs::symlink("../one/layer.tar", dir.path().join("two/layer.tar")).unwrap();
    fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    let saved = json!([{
        "Config": "config.json", "RepoTags": ["app:1"],
        "Layers": ["one/layer.tar", "two/layer.tar"],
    }]);
    fs::write(dir.path().join("manifest.json"), saved.to_string()).unwrap();
    let (_dir, store) = store().await;
    let images = store.import_stream(&tar_of(dir.path())[..], None, None).await.unwrap();
    assert_eq!(images[0].layers.len(), 2);
}

#[tokio::test]
async fn images_that_are_not_right_are_refused_in_one_line() {
    let good = tar(&[("a", b"b")]);
    let gz = gzip(&good);
    let layer =
        |blob: &[u8], media_type, diff_id| TestLayer { blob: blob.into(), media_type, diff_id };
    let right = Digest::of(&good);
    let cases = [
        ("has digest", layer(&gz, support::GZIP, Digest::of(b"other"))),
        ("truncated", TestLayer::plain(good[..512].to_vec())),
        ("incomplete deflate stream", layer(&gz[..gz.len() / 2], support::GZIP, right)),
        ("leaves the image", TestLayer::gzip(&tar(&[("../escape", b"")]))),
        ("malformed tar header", TestLayer::plain(vec![b'x'; 2048])),
        ("is not supported", layer(&gz, "application/vnd.example.encrypted", right)),
    ];
    let (dir, store) = store().await;
    for (expected, layer) in cases {
        let layout = Layout::of("example.org/bad:1", &[layer]);
        let error = import(&store, layout.path(), None).await.unwrap_err().to_string();
        assert!(error.contains(expected) && !error.contains('\n'), "{expected}: {error}");
        assert!(error.starts_with("cannot load the image: "), "{error}");
    }
    assert!(store.list().await.unwrap().is_empty());
    assert!(files(&dir.path().join("layers")).is_empty());
    assert!(files(&dir.path().join("tmp")).is_empty());
}

#[tokio::test]
async fn an_archive_over_the_limit_is_refused_and_not_cut() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits { unpacked: 1 << 20, ..Limits::default() };
    let store = Store::open_with(dir.path(), limits).await.unwrap();
    let endless = tokio::io::repeat(0);
    let error = store.import_stream(endless, None, None).await.unwrap_err();
    let expected = "cannot load the image: the archive is over the limit of 1048576 bytes";
    assert_eq!(error.to_string(), expected);
}

#[tokio::test]
async fn the_good_layers_of_a_refused_image_go_too() {
    let good = TestLayer::gzip(&busybox());
    let bad = TestLayer::gzip(&tar(&[("../escape", b"")]));
    let layout = Layout::of("example.org/half:1", &[good, bad]);
    let (dir, store) = store().await;
    import(&store, layout.path(), None).await.unwrap_err();
    let started = Instant::now();
    while !files(&dir.path().join("layers")).is_empty() {
        assert!(started.elapsed() < Duration::from_secs(120), "the good layer is left");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn archives_that_are_not_right_are_refused_in_one_line() {
    let (_dir, store) = store().await;
    let check = async |layout: &Layout, expected: &str| {
        let error = import(&store, layout.path(), None).await.unwrap_err().to_string();
        assert!(error.contains(expected) && !error.contains('\n'), "{expected}: {error}");
    };
    check(&Layout::new(), "neither manifest.json nor index.json").await;

    let layout = small("1");
    fs::write(layout.path().join("index.json"), "{").unwrap();
    check(&layout, "index.json is malformed").await;

    let layout = Layout::new();
    let layer = TestLayer::gzip(&tar(&[("a", b"")]));
    let digest = Digest::of(&layer.blob);
    layout.index("a/b:1", layout.image(&[layer], "amd64"));
    fs::remove_file(layout.blob_path(digest)).unwrap();
    check(&layout, "there is no").await;

    let layout = Layout::new();
    layout.index("a/b:1", layout.image(&[], "riscv64"));
    check(&layout, "platform \"linux/riscv64\" is not supported").await;

    let layout = Layout::new();
    layout.index("a/b:1", layout.blob("x", &vec![b' '; 5 << 20]));
    check(&layout, "over the limit of 4194304 bytes").await;

    let layout = Layout::new();
    let manifest = layout.image(&[], "amd64");
    let digest: Digest = manifest["digest"].as_str().unwrap().parse().unwrap();
    fs::write(layout.blob_path(digest), "{}").unwrap();
    layout.index("a/b:1", manifest);
    check(&layout, "has digest").await;

    let layout = Layout::new();
    let saved = json!([{ "Config": "../../../etc/passwd", "RepoTags": ["a:1"], "Layers": [] }]);
    fs::write(layout.path().join("manifest.json"), saved.to_string()).unwrap();
    check(&layout, "there is no \"../../../etc/passwd\"").await;

    let missing = store.import("/nonexistent/image.tar", None, None).await.unwrap_err();
    assert!(missing.to_string().contains("/nonexistent/image.tar"), "{missing}");
    let noise = store.import_stream(&[b'x'; 5000][..], None, None).await.unwrap_err();
    assert!(noise.to_string().contains("malformed tar header"), "{noise}");
}

#[tokio::test]
async fn a_removed_image_takes_its_own_layers_along() {
    let (dir, store) = store().await;
    let shared = || TestLayer::gzip(&tar(&[("shared", b"")]));
    let own = TestLayer::gzip(&tar(&[("own", b"")]));
    let first = Layout::of("example.org/first:1", &[shared(), own]);
    let second = Layout::of("example.org/second:1", &[shared()]);
    import(&store, first.path(), None).await.unwrap();
    let kept = import(&store, second.path(), None).await.unwrap();
    assert_eq!(files(&dir.path().join("layers")).len(), 2);
    store.remove("example.org/first:1").await.unwrap();
    assert_eq!(files(&dir.path().join("layers")).len(), 1);
    assert_eq!(store.list().await.unwrap(), std::slice::from_ref(&kept));
    let error = store.remove("example.org/first:1").await.unwrap_err();
    assert!(matches!(error, Error::NotFound(_)), "{error}");
    store.remove(&kept.id.to_string()).await.unwrap();
    assert!(files(&dir.path().join("layers")).is_empty());
}

#[tokio::test]
async fn a_pinned_image_stays_until_it_is_unpinned() {
    let (dir, store) = store().await;
    let old = import(&store, small("old").path(), None).await.unwrap();
    store.pin(old.id, "node-1").await.unwrap();
    store.pin(old.id, "node-1").await.unwrap();
    let error = store.remove("example.org/small:1").await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "image example.org/small:1 is in use by node-1: remove its pods first"
    );
    // The name moves to a new image; the old one is still mapped by the node.
    let new = import(&store, small("new").path(), None).await.unwrap();
    assert_eq!(store.resolve("example.org/small:1").await.unwrap().unwrap().id, new.id);
    drop(store);
    let store = Store::open(dir.path()).await.unwrap();
    let found = store.resolve(&old.id.to_string()).await.unwrap().unwrap();
    assert!(found.references.is_empty() && found.layers[0].path.exists());
    store.unpin(old.id, "node-1").await.unwrap();
    assert!(store.resolve(&old.id.to_string()).await.unwrap().is_none());
    assert!(!found.layers[0].path.exists() && new.layers[0].path.exists());
    assert!(matches!(store.pin(old.id, "node-2").await, Err(Error::NotFound(_))));
    store.pin(new.id, "node-2").await.unwrap();
    store.unpin_all("node-2").await.unwrap();
    store.remove("example.org/small:1").await.unwrap();
}

#[tokio::test]
async fn a_node_that_goes_takes_its_pods_pins_along_and_no_others() {
    let (_dir, store) = store().await;
    let image = import(&store, small("1").path(), None).await.unwrap();
    for owner in ["c/node-1/pod-1", "c/node-1/pod-2", "c/node-10/pod-3", "c/node-1"] {
        store.pin(image.id, owner).await.unwrap();
    }
    store.unpin_all("c/node-1").await.unwrap();
    let error = store.remove("example.org/small:1").await.unwrap_err();
    assert!(error.to_string().contains("in use by c/node-10/pod-3:"), "{error}");
    store.unpin_all("c").await.unwrap();
    store.remove("example.org/small:1").await.unwrap();
}

#[tokio::test]
async fn a_layer_that_vanished_is_not_resolved_and_comes_back() {
    let (_dir, store) = store().await;
    let layout = small("1");
    let image = import(&store, layout.path(), None).await.unwrap();
    fs::remove_file(&image.layers[0].path).unwrap();
    assert_eq!(store.resolve("example.org/small:1").await.unwrap(), None);
    import(&store, layout.path(), None).await.unwrap();
    assert_eq!(store.resolve("example.org/small:1").await.unwrap(), Some(image));
}

#[tokio::test]
async fn what_a_crash_left_is_removed_when_the_store_is_opened() {
    let (dir, store) = store().await;
    let image = import(&store, small("1").path(), None).await.unwrap();
    drop(store);
    let stray = format!("sha256-{}.erofs", "0".repeat(64));
    fs::write(dir.path().join("layers").join(stray), "").unwrap();
    fs::write(dir.path().join("tmp/.tmpXYZ"), "half").unwrap();
    let store = Store::open(dir.path()).await.unwrap();
    assert!(files(&dir.path().join("tmp")).is_empty());
    assert_eq!(files(&dir.path().join("layers")).len(), 1);
    assert_eq!(store.list().await.unwrap(), [image]);
}

const CHILD: &str = "BULKHEAD_IMAGES_TEST_CHILD";

/// Not a test of its own: what [`a_killed_process_leaves_a_consistent_store`] kills.
#[tokio::test]
async fn child_that_imports_and_removes() {
    let Ok(arguments) = std::env::var(CHILD) else { return };
    let (dir, layout) = arguments.split_once(' ').unwrap();
    let store = Store::open(dir).await.unwrap();
    loop {
        import(&store, Path::new(layout), None).await.unwrap();
        drop(store.remove("example.org/killed:1").await);
    }
}

#[tokio::test]
async fn a_killed_process_leaves_a_consistent_store() {
    let layers: Vec<_> =
        (0..4).map(|n| TestLayer::gzip(&tar(&[("a", &vec![n; 300_000])]))).collect();
    let layout = Layout::of("example.org/killed:1", &layers);
    let dir = tempfile::tempdir().unwrap();
    let (mut with_image, mut with_rest) = (0, 0);
    for round in 0..6 {
        // Two at once: neither may break the other, however they end.
        let children = [0, 1].map(|_| {
            Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "child_that_imports_and_removes", "--nocapture"])
                .env(CHILD, format!("{} {}", dir.path().display(), layout.path().display()))
                .stdout(Stdio::null())
                .stderr(Stdio::inherit())
                .spawn()
                .unwrap()
        });
        let started = || {
            let [layers, tmp] = ["layers", "tmp"].map(|name| dir.path().join(name));
            tmp.exists() && files(&layers).len() + files(&tmp).len() > 0
        };
        let deadline = Instant::now() + Duration::from_secs(120);
        while !started() {
            assert!(Instant::now() < deadline, "the children do nothing");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        tokio::time::sleep(Duration::from_millis(round * 9)).await;
        for mut child in children {
            assert!(child.try_wait().unwrap().is_none(), "a child failed by itself");
            child.kill().unwrap();
            child.wait().unwrap();
        }
        if dir.path().join("tmp").exists() {
            with_rest += files(&dir.path().join("tmp")).len();
        }
        let store = Store::open(dir.path()).await.unwrap();
        assert!(files(&dir.path().join("tmp")).is_empty());
        let images = store.list().await.unwrap();
        let listed: BTreeSet<_> = images
            .iter()
            .flat_map(|image| &image.layers)
            .map(|layer| layer.path.file_name().unwrap().to_str().unwrap().to_owned())
            .collect();
        assert_eq!(files(&dir.path().join("layers")), listed);
        for layer in images.iter().flat_map(|image| &image.layers) {
            assert_eq!(fs::metadata(&layer.path).unwrap().len(), layer.size);
        }
        with_image += images.len();
    }
    assert!(with_image + with_rest > 0, "no child was in the middle of anything");
}
