//! `bulkhead image …`.

use std::fs::File;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use bulkhead_host_api::{ImageSummary, PullRequest};
use serde_json::Value;

use crate::args::Image;
use crate::host::{Host, explain, node_image};
use crate::output::{print, show, table};
use crate::progress::{self, Progress};
use crate::size::Size;

pub(super) async fn execute(command: Image) -> Result<()> {
    match command {
        Image::Build => {
            let mut progress = Progress::new();
            let image = node_image::ensure(&mut progress).await?;
            drop(progress);
            print(&format!("{}\n{}\n", image.kernel.display(), image.root.display()))
        }
        Image::Load { source, name } => {
            check_source(&source)?;
            let made = load(&Host::connect().await?, &source, name.as_deref()).await;
            told(&made.with_context(|| format!("image {}", source.display()))?)
        }
        Image::Pull { reference, insecure, ca_file, creds } => {
            let authorities = ca_file.map(|path| {
                std::fs::read_to_string(&path)
                    .with_context(|| format!("certificates {}", path.display()))
            });
            let authorities = authorities.transpose()?;
            let host = Host::connect().await?;
            let request = PullRequest {
                reference: reference.clone(),
                insecure,
                authorities,
                credentials: creds,
            };
            let made = progress::follow(host.client.pull_image(&request).await).await;
            told(&made.with_context(|| format!("image {reference:?}"))?)
        }
        Image::List(output) => {
            let images = Host::connect().await?.client.images().await?;
            show(output.format, &images, |images| list(images))
        }
        Image::Remove { references } => {
            let host = Host::connect().await?;
            for reference in references {
                host.client.remove_image(&reference).await.map_err(explain)?;
                print(&format!("image {reference} is removed\n"))?;
            }
            Ok(())
        }
    }
}

/// Finds what can be found wrong before a daemon is asked.
fn check_source(source: &Path) -> Result<()> {
    if source == Path::new("-") {
        return Ok(());
    }
    let meta = std::fs::metadata(source).with_context(|| format!("image {}", source.display()))?;
    if meta.is_dir() && !source.join("oci-layout").is_file() {
        bail!(
            "image {}: a directory without an oci-layout file; name an OCI layout or a tar",
            source.display()
        );
    }
    Ok(())
}

async fn load(host: &Host, source: &Path, name: Option<&str>) -> Result<Value> {
    if source == Path::new("-") {
        return progress::follow(host.client.load_image(name, tokio::io::stdin()).await).await;
    }
    if !source.is_dir() {
        let file = tokio::fs::File::open(source).await?;
        return progress::follow(host.client.load_image(name, file).await).await;
    }
    let (reader, writer) = std::io::pipe()?;
    let directory = source.to_owned();
    let packing = tokio::task::spawn_blocking(move || {
        let mut archive = tar::Builder::new(writer);
        archive.append_dir_all(".", directory)?;
        archive.into_inner().map(drop)
    });
    let reader = tokio::fs::File::from_std(File::from(std::os::fd::OwnedFd::from(reader)));
    let loaded = progress::follow(host.client.load_image(name, reader).await).await;
    match packing.await? {
        // That the daemon stopped reading is explained by its own answer.
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => loaded,
    }
}

fn told(made: &Value) -> Result<()> {
    let name = made.pointer("/references/0").or_else(|| made.get("id")).and_then(Value::as_str);
    let size = made.get("size").and_then(Value::as_u64).map(Size::from);
    match (name, size) {
        (Some(name), Some(size)) => print(&format!("image {name} is ready, {size}\n")),
        _ => print("the image is ready\n"),
    }
}

fn list(images: &[ImageSummary]) -> String {
    if images.is_empty() {
        return "no images; nodes pull what pods name, or: bulkhead image load FILE\n".into();
    }
    let short = |id: &str| id.trim_start_matches("sha256:").chars().take(12).collect::<String>();
    let rows = images.iter().flat_map(|image| {
        let unnamed = ["<none>".to_owned()];
        let names = if image.references.is_empty() { &unnamed[..] } else { &image.references[..] };
        let row = |name: &String| {
            let size = Size::from(image.size).to_string();
            [name.clone(), short(&image.id), image.layers.to_string(), size]
        };
        names.iter().map(row).collect::<Vec<_>>()
    });
    table(["IMAGE", "ID", "LAYERS", "SIZE"], rows)
}
