//! Creates metrics and registers them with their names and help texts.

use prometheus_client::{
    encoding::{EncodeMetric, text::encode},
    metrics::{TypedMetric, family::Family, info::Info},
    registry::{Metric, Registry, Unit},
};

type Label = [(&'static str, &'static str); 1];

/// Creates metrics and encodes them; it keeps a handle of each.
pub struct Register(Registry);

/// The series of one metric, which differ in the value of one label.
pub struct By<M> {
    label: &'static str,
    series: Family<Label, M>,
}

impl<M: Clone + Default> By<M> {
    /// Returns the series with this label value, which is created if it does not exist.
    pub fn get(&self, value: &'static str) -> M {
        self.series.get_or_create_owned(&[(self.label, value)])
    }
}

impl Register {
    /// Contains only the metric `roomcast_build_info`, with the running version.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("roomcast");
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        registry.register("build", "The version that runs", Info::new(version));
        Self(registry)
    }

    /// Adds a metric without labels.
    pub fn one<M: Metric + Clone + Default>(&mut self, name: &str, help: &str) -> M {
        self.add(name, help, M::default())
    }

    /// Adds a metric in seconds; its name gets the suffix `_seconds`.
    pub fn seconds<M: Metric + Clone>(&mut self, name: &str, help: &str, metric: M) -> M {
        self.0.register_with_unit(name, help, Unit::Seconds, metric.clone());
        metric
    }

    /// Adds a metric with a label. The series of `values` exist from the start, so that alerts on
    /// them work before the first event.
    pub fn by<M>(
        &mut self,
        name: &str,
        help: &str,
        label: &'static str,
        values: &[&'static str],
    ) -> By<M>
    where
        M: EncodeMetric + TypedMetric + Clone + Default + Send + Sync + std::fmt::Debug + 'static,
    {
        let by = By { label, series: self.add(name, help, Family::default()) };
        values.iter().for_each(|value| drop(by.get(value)));
        by
    }

    /// Adds a metric with a label, in seconds; its name gets the suffix `_seconds`.
    pub fn seconds_by<M>(
        &mut self,
        name: &str,
        help: &str,
        label: &'static str,
        values: &[&'static str],
    ) -> By<M>
    where
        M: EncodeMetric + TypedMetric + Clone + Default + Send + Sync + std::fmt::Debug + 'static,
    {
        let by = By { label, series: self.seconds(name, help, Family::default()) };
        values.iter().for_each(|value| drop(by.get(value)));
        by
    }

    /// Returns all metrics in the OpenMetrics text format.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = encode(&mut text, &self.0);
        text
    }

    fn add<M: Metric + Clone>(&mut self, name: &str, help: &str, metric: M) -> M {
        self.0.register(name, help, metric.clone());
        metric
    }
}
