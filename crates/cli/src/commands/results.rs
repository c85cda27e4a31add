//! `rustane results`: what lies in a folder of results.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use bench::results::{Curves, Page, Results, page};

use super::bench::compare;
use crate::failure::Failure;
use crate::plot::{Chart, Line, Series, svg};

/// Flags of `rustane results`.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Render a folder of results as one static page
    Index {
        /// The folder
        #[arg(long, default_value = "results", value_name = "DIR")]
        dir: PathBuf,
        /// The page [default: index.html in the folder]
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        /// Write nothing; exit with 1 when the page is not that of the files
        #[arg(long)]
        check: bool,
    },
    /// Read files of results and say what is wrong with them
    Check {
        /// The files
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
}

/// Runs the action.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.action {
        Action::Index { dir, out, check } => index(&dir, out, check),
        Action::Check { files } => {
            for file in &files {
                let results = compare::read(file)?;
                println!("{}: {} cases, {}", file.display(), results.cases.len(), results.title);
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn index(dir: &Path, out: Option<PathBuf>, check: bool) -> anyhow::Result<ExitCode> {
    let files = files(dir)?;
    if files.is_empty() {
        let text =
            format!("{} holds no .json file of results, wanted <machine>/<date>-<what>.json", dir.display());
        return Err(Failure::Usage(text).into());
    }
    let html = page(&Page { files: &files, draw: &draw });
    let out = out.unwrap_or_else(|| dir.join("index.html"));
    if check {
        let there = std::fs::read_to_string(&out).unwrap_or_default();
        if there != html {
            eprintln!("{} is not that of the files; run `rustane results index`", out.display());
            return Ok(ExitCode::FAILURE);
        }
        println!("{} is up to date", out.display());
        return Ok(ExitCode::SUCCESS);
    }
    std::fs::write(&out, html).with_context(|| format!("cannot write {}", out.display()))?;
    println!("wrote {} of {} files", out.display(), files.len());
    Ok(ExitCode::SUCCESS)
}

/// The files of a folder and of the folders in it, published ones last.
fn files(dir: &Path) -> anyhow::Result<Vec<(String, Results)>> {
    let list = |dir: &Path| -> anyhow::Result<Vec<PathBuf>> {
        let entries = std::fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))?;
        let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
        paths.sort();
        Ok(paths)
    };
    let mut found = Vec::new();
    for path in list(dir)? {
        if path.is_dir() {
            found.extend(list(&path)?);
        } else {
            found.push(path);
        }
    }
    let mut files = Vec::new();
    for path in found.iter().filter(|path| path.extension().is_some_and(|ending| ending == "json")) {
        let name = path.strip_prefix(dir).unwrap_or(path).to_string_lossy().replace('\\', "/");
        files.push((name, compare::read(path)?));
    }
    files.sort_by_key(|(name, results)| (results.source.is_some(), name.clone()));
    Ok(files)
}

/// Curves as SVG that fits into a page.
fn draw(curves: &Curves) -> String {
    let series = curves.series.iter().map(|s| {
        let line = if s.points.len() <= 12 { Line::Exact } else { Line::Noisy(0) };
        Series { name: s.name.clone(), points: s.points.clone(), line }
    });
    let chart = Chart {
        title: String::new(),
        x_label: curves.x_label.clone(),
        y_label: curves.y_label.clone(),
        log: false,
        series: series.collect(),
        notes: Vec::new(),
    };
    // A curve without a finite point is the reader's business, and says so in its place.
    svg(&chart).unwrap_or_else(|error| format!("<p>{error}</p>"))
}
