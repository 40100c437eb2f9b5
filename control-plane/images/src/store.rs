//! The store: pulls, imports, finds, keeps and removes images.

use std::{
    collections::{HashMap, HashSet},
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
};

use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};

use crate::{
    Digest, Error, Image, Layer, Limits, Name, Progress, ProgressFn, PullOptions,
    archive::Archive,
    error::ContentError,
    index::{Index, Record},
    layer::{self, Budget},
    lock::Lock,
    manifest::{Plan, PlannedLayer, image_config},
    registry::Registry,
};

/// Images under one directory. Clones are the same store; several processes may open one.
#[derive(Debug, Clone)]
pub struct Store(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    limits: Limits,
    index: Index,
    /// Layers being fetched by this process: who comes second waits for the first.
    arriving: Mutex<HashMap<Digest, Arc<tokio::sync::Mutex<()>>>>,
}

/// Where an image's layers come from.
#[derive(Clone)]
enum Source {
    Registry(Arc<Registry>),
    Archive(Arc<Archive>),
}

impl Store {
    /// Opens the store in `dir`, which is made if it is not there, and removes what a crash left.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Index`] if it cannot be used.
    pub async fn open(dir: impl Into<PathBuf>) -> Result<Self, Error> {
        Self::open_with(dir, Limits::default()).await
    }

    /// Opens the store with bounds of one's own.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn open_with(dir: impl Into<PathBuf>, limits: Limits) -> Result<Self, Error> {
        let dir = dir.into();
        let inner = blocking(move || {
            for dir in [layer::layers_dir(&dir), layer::tmp_dir(&dir)] {
                fs::create_dir_all(&dir).map_err(Error::io("cannot create", dir))?;
            }
            let index = Index::open(&dir.join("index.db"))?;
            let inner = Inner { dir, limits, index, arriving: Mutex::default() };
            inner.collect()?;
            Ok(inner)
        })
        .await?;
        Ok(Self(Arc::new(inner)))
    }

    /// Pulls an image from its registry. Layers that are in the store are not fetched.
    ///
    /// # Errors
    /// [`Error::InvalidName`], [`Error::RegistryUnavailable`], [`Error::Pull`]; [`Error::Io`] if
    /// the store cannot be written.
    pub async fn pull(
        &self,
        reference: &str,
        options: PullOptions,
        progress: Option<ProgressFn>,
    ) -> Result<Image, Error> {
        let name = Name::parse(reference)?;
        let registry = Arc::new(Registry::new(name.clone(), options)?);
        let plan = registry.plan(&self.0.limits).await?;
        self.ingest(plan, Source::Registry(registry), vec![name], progress).await
    }

    /// Loads the images of a file: an OCI layout (a directory, or a tar) or what `docker save`
    /// wrote. A tar may be compressed. `name`, if given, names the only image in it.
    ///
    /// # Errors
    /// [`Error::Load`]; [`Error::InvalidName`]; [`Error::Io`] if the file cannot be read or the
    /// store cannot be written.
    pub async fn import(
        &self,
        path: impl Into<PathBuf>,
        name: Option<&str>,
        progress: Option<ProgressFn>,
    ) -> Result<Vec<Image>, Error> {
        let (path, this) = (path.into(), self.0.clone());
        let archive =
            blocking(move || Archive::open(&path, &this.dir, &this.limits).map_err(load_error));
        self.import_archive(archive.await?, name, progress).await
    }

    /// Loads the images of a tar that is read from `reader`, as [`Self::import`] does. It is kept
    /// in a nameless file meanwhile.
    ///
    /// # Errors
    /// As [`Self::import`].
    pub async fn import_stream(
        &self,
        mut reader: impl AsyncRead + Unpin + Send,
        name: Option<&str>,
        progress: Option<ProgressFn>,
    ) -> Result<Vec<Image>, Error> {
        let tmp = layer::tmp_dir(&self.0.dir);
        let file =
            tempfile::tempfile_in(&tmp).map_err(Error::io("cannot create a file in", &tmp))?;
        let mut file = tokio::fs::File::from_std(file);
        let limit = self.0.limits.unpacked;
        let mut length = 0;
        let mut buffer = vec![0; 128 << 10];
        loop {
            let read = reader.read(&mut buffer).await;
            let read = read.map_err(|error| Error::Load(format!("it cannot be read: {error}")))?;
            if read == 0 {
                break;
            }
            length += read as u64;
            if length > limit {
                return Err(load_error(ContentError::Limit {
                    what: "the archive",
                    limit,
                    unit: "bytes",
                }));
            }
            file.write_all(&buffer[..read]).await.map_err(Error::io("cannot write to", &tmp))?;
        }
        file.flush().await.map_err(Error::io("cannot write to", &tmp))?;
        let (file, this) = (file.into_std().await, self.0.clone());
        let archive =
            blocking(move || Archive::from_file(file, &this.dir, &this.limits).map_err(load_error));
        self.import_archive(archive.await?, name, progress).await
    }

    /// The image of this name or id, if all of it is here.
    ///
    /// # Errors
    /// [`Error::InvalidName`]; [`Error::Index`].
    pub async fn resolve(&self, reference: &str) -> Result<Option<Image>, Error> {
        let (this, key) = (self.0.clone(), key(reference)?);
        blocking(move || {
            let Some(record) = this.index.find(&key)? else { return Ok(None) };
            let image = this.image(record)?;
            // A file that someone removed by hand is not here, whatever the index says.
            let whole = image.layers.iter().all(|it| this.stored_size(it.diff_id) == Some(it.size));
            Ok(whole.then_some(image))
        })
        .await
    }

    /// The image of this name or id, for a pod that forbids pulling it.
    ///
    /// # Errors
    /// [`Error::NotFound`] (ErrImageNeverPull); [`Error::InvalidName`]; [`Error::Index`].
    pub async fn require(&self, reference: &str) -> Result<Image, Error> {
        self.resolve(reference).await?.ok_or_else(|| Error::NotFound(reference.into()))
    }

    /// Every image, in the order of their ids.
    ///
    /// # Errors
    /// [`Error::Index`].
    pub async fn list(&self) -> Result<Vec<Image>, Error> {
        let this = self.0.clone();
        blocking(move || this.index.list()?.into_iter().map(|record| this.image(record)).collect())
            .await
    }

    /// Forgets a name, or with an id all names of an image. What has no name left goes, with the
    /// layers that only it had.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::InUse`] if it is the last name of a pinned image.
    pub async fn remove(&self, reference: &str) -> Result<(), Error> {
        let (this, key) = (self.0.clone(), key(reference)?);
        blocking(move || {
            this.index.remove(&key)?;
            this.collect()
        })
        .await
    }

    /// Keeps an image and its layers' files until `owner` unpins it, across restarts. Pinning twice
    /// is pinning once. Owners are named like paths, `cluster/node/pod`.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Index`].
    pub async fn pin(&self, image: Digest, owner: &str) -> Result<(), Error> {
        let (this, owner) = (self.0.clone(), owner.to_owned());
        blocking(move || match this.index.pin(image, &owner)? {
            true => Ok(()),
            false => Err(Error::NotFound(image.to_string())),
        })
        .await
    }

    /// Takes `owner`'s pin back. An image that has lost its last name meanwhile goes.
    ///
    /// # Errors
    /// [`Error::Index`]; [`Error::Io`].
    pub async fn unpin(&self, image: Digest, owner: &str) -> Result<(), Error> {
        let (this, owner) = (self.0.clone(), owner.to_owned());
        blocking(move || {
            this.index.unpin(image, &owner)?;
            this.collect()
        })
        .await
    }

    /// Takes back all pins of `owner` and of the owners below it: a pod, a node with its pods, or a
    /// cluster with its nodes is gone.
    ///
    /// # Errors
    /// As [`Self::unpin`].
    pub async fn unpin_all(&self, owner: &str) -> Result<(), Error> {
        let (this, owner) = (self.0.clone(), owner.to_owned());
        blocking(move || {
            this.index.unpin_all(&owner)?;
            this.collect()
        })
        .await
    }

    async fn import_archive(
        &self,
        archive: Archive,
        name: Option<&str>,
        progress: Option<ProgressFn>,
    ) -> Result<Vec<Image>, Error> {
        let name = name.map(Name::parse).transpose()?;
        let (archive, limits) = (Arc::new(archive), self.0.limits);
        let opened = archive.clone();
        let entries =
            blocking(move || opened.entries(name.as_ref(), &limits).map_err(load_error)).await?;
        let mut images = Vec::new();
        for entry in entries {
            let source = Source::Archive(archive.clone());
            images.push(self.ingest(entry.plan, source, entry.names, progress.clone()).await?);
        }
        Ok(images)
    }

    /// Brings an image's layers in, then the image.
    async fn ingest(
        &self,
        plan: Plan,
        source: Source,
        names: Vec<Name>,
        progress: Option<ProgressFn>,
    ) -> Result<Image, Error> {
        let this = self.0.clone();
        let lock = {
            let this = this.clone();
            Arc::new(blocking(move || Lock::shared(&this.dir)).await?)
        };
        let meter = Arc::new(Meter::new(&plan, progress));
        let budget = Budget::new(this.limits.unpacked);
        let layers: Vec<(Digest, u64)> = stream::iter(plan.layers.clone())
            .map(|planned| {
                let job = Job {
                    store: this.clone(),
                    lock: lock.clone(),
                    planned,
                    meter: meter.clone(),
                    budget: budget.clone(),
                };
                job.run(source.clone())
            })
            .buffered(this.limits.concurrency.max(1))
            .try_collect()
            .await
            .inspect_err(|_| {
                // A pull is tried again, and goes on from the layers that came through.
                if matches!(source, Source::Archive(_)) {
                    let this = this.clone();
                    // When the image's other layers are through as well. If it fails, the next
                    // removal makes up for it.
                    tokio::task::spawn_blocking(move || {
                        let lock = Lock::exclusive_in_turn(&this.dir)?;
                        this.sweep(&lock)
                    });
                }
            })?;
        blocking(move || {
            let names: Vec<_> = names.iter().map(Name::to_string).collect();
            this.index.put(plan.id, &plan.config, &layers, &names)?;
            // Another process may take its name away at once; the image goes when nobody holds the lock.
            let record = this.index.find(&plan.id.to_string())?;
            // Only now may layers without an image be removed.
            drop(lock);
            this.image(record.ok_or_else(|| Error::NotFound(plan.id.to_string()))?)
        })
        .await
    }
}

impl Inner {
    fn stored_size(&self, diff_id: Digest) -> Option<u64> {
        layer::stored_size(&self.dir, diff_id)
    }

    fn image(&self, record: Record) -> Result<Image, Error> {
        let layers = record.layers.into_iter().map(|(diff_id, size)| Layer {
            diff_id,
            path: layer::path(&self.dir, diff_id),
            size,
        });
        Ok(Image {
            id: record.id,
            references: record.names,
            config: image_config(&record.config).map_err(load_error)?,
            layers: layers.collect(),
        })
    }

    /// Removes images and layers that nothing needs, and what a crash left. While layers arrive,
    /// in any process, it is left to the next call.
    fn collect(&self) -> Result<(), Error> {
        Lock::exclusive(&self.dir)?.map_or(Ok(()), |lock| self.sweep(&lock))
    }

    fn sweep(&self, _exclusive: &Lock) -> Result<(), Error> {
        let needed = self.index.collect()?;
        let needed: HashSet<_> = needed.into_iter().map(|it| layer::path(&self.dir, it)).collect();
        remove_files(&layer::tmp_dir(&self.dir), |_| false)?;
        remove_files(&layer::layers_dir(&self.dir), |path| needed.contains(path))
    }

    fn arrival(&self, diff_id: Digest) -> Arc<tokio::sync::Mutex<()>> {
        let mut arriving = self.arriving.lock().unwrap_or_else(PoisonError::into_inner);
        arriving.retain(|_, arrival| Arc::strong_count(arrival) > 1);
        arriving.entry(diff_id).or_default().clone()
    }
}

/// One layer's way in.
struct Job {
    store: Arc<Inner>,
    /// Held by the thread that writes as well: it may outlive a pull that was given up.
    lock: Arc<Lock>,
    planned: PlannedLayer,
    meter: Arc<Meter>,
    budget: Budget,
}

impl Job {
    async fn run(self, source: Source) -> Result<(Digest, u64), Error> {
        let Self { store, lock, planned, meter, budget } = self;
        let diff_id = planned.expected.diff_id;
        let arrival = store.arrival(diff_id);
        let _turn = arrival.lock().await;
        if let Some(size) = store.stored_size(diff_id) {
            meter.arrived(planned.size);
            meter.done();
            return Ok((diff_id, size));
        }
        let on_read = {
            let meter = meter.clone();
            move |bytes| meter.arrived(bytes)
        };
        let (dir, expected) = (store.dir.clone(), planned.expected);
        // What a registry sends beyond the size in the manifest is not read.
        let most = planned.size;
        let size = match source {
            Source::Registry(registry) => {
                let consume = move |blob| {
                    let _lock = lock;
                    layer::store(&dir, expected, io::Read::take(blob, most), on_read, &budget)
                };
                registry.layer(&planned, consume).await?
            }
            Source::Archive(archive) => {
                let blob = expected.blob.unwrap_or(diff_id);
                blocking(move || {
                    let _lock = lock;
                    let (reader, _) =
                        archive.layer(blob, planned.member.as_deref()).map_err(load_error)?;
                    layer::store(&dir, expected, reader, on_read, &budget).map_err(load_error)
                })
                .await?
            }
        };
        meter.done();
        Ok((diff_id, size))
    }
}

/// Adds up progress and reports it.
struct Meter {
    layers: usize,
    total: u64,
    layers_done: AtomicUsize,
    bytes: AtomicU64,
    report: Option<ProgressFn>,
}

impl Meter {
    fn new(plan: &Plan, report: Option<ProgressFn>) -> Self {
        Self {
            layers: plan.layers.len(),
            total: plan.layers.iter().fold(0, |sum, layer| layer.size.saturating_add(sum)),
            layers_done: AtomicUsize::new(0),
            bytes: AtomicU64::new(0),
            report,
        }
    }

    fn arrived(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Relaxed);
        self.report();
    }

    fn done(&self) {
        self.layers_done.fetch_add(1, Relaxed);
        self.report();
    }

    fn report(&self) {
        if let Some(report) = &self.report {
            report(Progress {
                layers_done: self.layers_done.load(Relaxed),
                layers: self.layers,
                bytes: self.bytes.load(Relaxed),
                total: self.total,
            });
        }
    }
}

/// What the index knows an image by: its id, or its full name.
fn key(reference: &str) -> Result<String, Error> {
    match reference.parse::<Digest>() {
        Ok(id) => Ok(id.to_string()),
        Err(_) => Ok(Name::parse(reference)?.to_string()),
    }
}

fn load_error(error: ContentError) -> Error {
    match error {
        ContentError::Store(error) => *error,
        error => Error::Load(error.to_string()),
    }
}

fn remove_files(dir: &Path, keep: impl Fn(&Path) -> bool) -> Result<(), Error> {
    for entry in fs::read_dir(dir).map_err(Error::io("cannot read", dir))? {
        let path = entry.map_err(Error::io("cannot read", dir))?.path();
        if !keep(&path) {
            fs::remove_file(&path).map_err(Error::io("cannot remove", path))?;
        }
    }
    Ok(())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await?
}
