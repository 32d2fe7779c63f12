// The unit that a field's name ends with: `temperature_c` is a temperature in °C.

const UNITS = {
  c: '°C', f: '°F', k: 'K', pct: '%', percent: '%',
  pa: 'Pa', hpa: 'hPa', kpa: 'kPa', bar: 'bar', mbar: 'mbar',
  v: 'V', mv: 'mV', kv: 'kV', a: 'A', ma: 'mA', w: 'W', kw: 'kW', mw: 'mW', wh: 'Wh', kwh: 'kWh',
  hz: 'Hz', khz: 'kHz', mhz: 'MHz', ghz: 'GHz', rpm: 'rpm',
  s: 's', ms: 'ms', us: 'µs', min: 'min', h: 'h',
  mm: 'mm', cm: 'cm', m: 'm', km: 'km', kmh: 'km/h', mps: 'm/s', deg: '°',
  g: 'g', kg: 'kg', l: 'l', ml: 'ml', lux: 'lx', lx: 'lx', ppm: 'ppm', ppb: 'ppb', db: 'dB', dbm: 'dBm',
  bytes: 'B', kb: 'kB', mb: 'MB', gb: 'GB',
}

// A field's name without its unit, and the unit, which may be empty.
export function split(name) {
  const [, label, end] = /^(.*[^_.])_([a-z]+)$/i.exec(name) ?? []
  const unit = Object.hasOwn(UNITS, end?.toLowerCase() ?? '') ? UNITS[end.toLowerCase()] : ''
  return unit ? { label, unit } : { label: name, unit: '' }
}
