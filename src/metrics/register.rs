//! Metrics with their names and help texts, registered as they are made.

use prometheus_client::{
    encoding::{EncodeMetric, text::encode},
    metrics::{TypedMetric, family::Family, info::Info},
    registry::{Metric, Registry, Unit},
};

type Label = [(&'static str, &'static str); 1];

/// Makes metrics.
pub struct Register(Registry);

/// Series of one metric that differ in one label.
pub struct By<M> {
    label: &'static str,
    series: Family<Label, M>,
}

impl<M: Clone + Default> By<M> {
    /// The series with this value.
    pub fn get(&self, value: &'static str) -> M {
        self.series.get_or_create_owned(&[(self.label, value)])
    }
}

impl Register {
    /// One without metrics but the version that runs.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("roomcast");
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        registry.register("build", "The version that runs", Info::new(version));
        Self(registry)
    }

    /// A metric of one series.
    pub fn one<M: Metric + Clone + Default>(&mut self, name: &str, help: &str) -> M {
        self.add(name, help, M::default())
    }

    /// The same in seconds, which are added to its name.
    pub fn seconds<M: Metric + Clone>(&mut self, name: &str, help: &str, metric: M) -> M {
        self.0.register_with_unit(name, help, Unit::Seconds, metric.clone());
        metric
    }

    /// A metric with a label. The series of these values are there from the start: they can be
    /// alerted on before their first event.
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

    /// The same in seconds.
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

    /// All of them in the OpenMetrics text format.
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
