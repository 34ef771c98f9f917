"""What loggers call the columns and units, beside the table that the cars know: only an import needs these.

Names are written as `folded_key` leaves them. A stand-in is a reading that serves where the real one is missing (the
speed of GPS, absolute load). Pure; must not import numpy, pandas, torch or flwr.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

from fleven.app import columns

_T: Final = columns.TIME_COLUMN


def folded_key(name: str) -> str:
    """Return a name as the alias tables have it, accents taken off: `Vitesse du véhicule` is `vitesseduvehicule`."""
    plain = unicodedata.normalize("NFKD", name.replace("ß", "ss"))
    return columns.key(plain.encode("ascii", "ignore").decode())


def _names(target: str, text: str) -> dict[str, str]:
    return dict.fromkeys(text.split(), target)


# English names of loggers and data sets, then Portuguese, Spanish, German, French, Italian.
_LOGGER_NAMES: Final[dict[str, str]] = {
    **_names(
        _T,
        "offset t timeofday timestamputc utctime unixtime unixtimestamp epoch epochtime systemtime logtime recordtime "
        "gpsdatetime datetimeutc timestampms timems timestampus timeus timestampns timens timeutc localtime datetime "
        "dateandtime devicetime gpstime timestamplocal elapsedtimems elapsedms timesinceenginestart "
        "runtimesinceenginestart enginerunningtime enginerunt enginerun engineruntimesincestart timestamps "
        "sessiontime totaltime absolutetime micros millis ticks itow cts engineruntine "
        "tempo hora datahora dataehora horadogps horadodispositivo horario "
        "tiempo fechahora fechayhora horagps horadelgps horadeldispositivo horadispositivo marcadetiempo "
        "zeit uhrzeit zeitstempel datumuhrzeit datumzeit gpszeit geratezeit geraetezeit "
        "temps heure horodatage dateheure dateetheure heuregps heuredelappareil heureappareil "
        "ora dataora tijd tijdstip",
    ),
    **_names(
        "vehicle_speed",
        "wheelbasedvehiclespeed "
        "vehiclespeedsensor vss vss1 vehspeed vehspd carspeed obdspeed obdiispeed vehiclespeedobd speedobdii roadspeed "
        "speedovehicle wheelspeed drivingwheelspeed velocity "
        "velocidade velocidadedoveiculo velocidadeveiculo velocidadeobd "
        "velocidad velocidaddelvehiculo velocidadvehiculo velocidadobd "
        "geschwindigkeit fahrzeuggeschwindigkeit fahrgeschwindigkeit geschwindigkeitobd "
        "vitesse vitesseduvehicule vitessevehicule vitesseobd velocita velocitaveicolo velocitadelveicolo snelheid",
    ),
    **_names(
        "engine_rpm",
        "rpms engrpm engspeed motorrpm revs enginerevs enginespeedrpm enginerevolutions tacho "
        "rotacao rotacaodomotor rotacoesdomotor rotacoes rpmdomotor rotacaomotor regimedomotor "
        "revoluciones revolucionesdelmotor rpmdelmotor rpmmotor regimendelmotor regimenmotor velocidaddelmotor "
        "drehzahl motordrehzahl motordrehzahlrpm regimemoteur regimedumoteur toursmoteur "
        "girimotore regimemotore toerental motortoerental",
    ),
    **_names(
        "mass_air_flow",
        "airflowratefrommassflowsensor massairflowsensor massairflowmaf mafsensor mafrate airflow airflowrate "
        "intakeairflow mafairflow massairflowratemaf airmass mafgrams "
        "fluxodemassadear vazaomassicadear massadear fluxodear taxadefluxodemassadear vazaodear "
        "flujodemasadeaire flujomasicodeaire caudalmasicodeaire flujodeaire masadeaire flujodeairemasivo "
        "caudaldeaire luftmasse luftmassenstrom luftmassendurchsatz luftmassenfluss luftmassenmesser "
        "debitmassiquedair debitdair debitdairmassique portatamassicaaria portataaria",
    ),
    **_names(
        "calculated_load_value",
        "enginepercentloadatcurrentspeed percentloadatcurrentspeed calculatedengineloadvalue "
        "calcload calcengineload engineloadcalculated loadcalculated engload loadvalue calculatedloadvaluepid04 "
        "cargadomotor cargacalculadadomotor cargacalculada valordacargadomotor cargamotor "
        "cargadelmotor cargacalculadadelmotor cargadelmotorcalculada "
        "motorlast berechnetemotorlast berechneterlastwert lastwert berechnetelast motorlastberechnet "
        "chargemoteur chargedumoteur chargecalculee chargecalculeedumoteur chargemoteurcalculee "
        "caricomotore caricodelmotore caricocalcolato valoredicaricocalcolato motorbelasting",
    ),
    **_names(
        "absolute_throttle_pos",
        "tps tp throttlepositionsensor absthrottlepos absolutethrottle throttlepositionabsolute throttleangle "
        "absolutethrottlepos throttleposition1 throttlebody throttleopening throttleopeningangle "
        "posicaodoacelerador posicaodaborboleta posicaoabsolutadoacelerador posicaoabsolutadaborboleta "
        "posiciondelacelerador posiciondelamariposa posicionabsolutadelacelerador "
        "drosselklappe drosselklappenstellung drosselklappenposition absolutedrosselklappenstellung "
        "drosselklappenwinkel positionpapillon positiondupapillon positiondupapillondesgaz "
        "positionabsoluedupapillon posizionefarfalla posizionevalvolafarfalla",
    ),
    **_names(
        "fuel_rate",
        "fuelconsumption fuelflowrate fuelflowratehour fuelflowrateminute enginefuelflow "
        "consumodecombustivel taxadecombustivel "
        "kraftstoffverbrauch kraftstoffdurchsatz debitcarburant",
    ),
    **_names(
        "intake_manifold_pressure",
        "manifoldpressure manifoldabsolutepressure intakemanifoldabsolutepressure manifoldabspressure mapsensor "
        "intakemanifoldabspressure imap pressaodocoletor pressaodocoletordeadmissao "
        "pressaoabsolutadocoletordeadmissao presiondelcolector presiondelcolectordeadmision "
        "presionabsolutadelcolectordeadmision saugrohrdruck saugrohrabsolutdruck "
        "pressiondadmission pressioncollecteurdadmission pressionabsoluecollecteur pressionecollettore",
    ),
    **_names(
        "barometric_pressure",
        "baro baropressure atmosphericpressure ambientpressure barometricpressurefromvehicle pressaobarometrica "
        "presionbarometrica luftdruck umgebungsdruck pressionbarometrique pressionatmospherique",
    ),
    **_names(
        "engine_coolant_temp",
        "clt ect coolanttemperature coolant watertemp watertemperature enginecoolant "
        "temperaturadoliquidodearrefecimento temperaturadoliquidodearrefecimentodomotor temperaturadaagua "
        "temperaturadelrefrigerante temperaturadelliquidorefrigerante temperaturadelrefrigerantedelmotor "
        "kuhlmitteltemperatur kuehlmitteltemperatur kuhlwassertemperatur "
        "temperatureduliquidederefroidissement temperaturedeau temperaturaliquidoraffreddamento",
    ),
    **_names(
        "intake_air_temp",
        "iat mat intakeairtemppid0f inletairtemp intakeairtempsensor temperaturadoardeadmissao "
        "temperaturadelairedeadmision ansauglufttemperatur temperaturedairdadmission "
        "temperaturedelairdadmission temperaturaariaaspirata",
    ),
    **_names(
        "ambient_air_temp",
        "ambienttemp ambienttemperature outsidetemp outsidetemperature temperaturaambiente aussentemperatur "
        "umgebungstemperatur temperatureexterieure temperatureambiante",
    ),
    **_names("fuel_level", "fuellevelinput niveldecombustivel niveldecombustible tankfullstand niveaudecarburant"),
    **_names("timing_advance", "ignitiontiming ignitionadvance sparkadvance timing avancodeignicao zundwinkel"),
}

_STAND_IN_NAMES: Final[dict[str, str]] = {
    **_names(
        "vehicle_speed",
        "gpsspeed speedgps gpsvelocity gps2dspeed gps2d groundspeed "
        "velocidadegps velocidadedogps velocidadgps velocidaddelgps "
        "gpsgeschwindigkeit geschwindigkeitgps vitessegps velocitagps vehiclespeedgps",
    ),
    **_names("calculated_load_value", "absload absoluteengineload absoluteloadvalue engineloadabsolute loadabsolute"),
    **_names(
        "absolute_throttle_pos",
        "absolutethrottlepositionb absolutethrottleposb throttleposb absolutethrottlepositionc "
        "relativethrottleposition relthrottlepos relativethrottlepos relativethrottle",
    ),
    # A counter that says less than a clock of its own: whole seconds, or the time since the journey's start.
    **_names(_T, "secl interval triptime tripduration triptimesincejourneystart journeytime utc laptime"),
}
#: Names that may be the speed of a wheel, or of anything that has one: another column is likelier to be the car's.
WHEEL_SPEED: Final = frozenset(("wheelspeed", "drivingwheelspeed"))
BARE_SPEED: Final = frozenset(
    ("speed", "velocity", "velocidade", "velocidad", "geschwindigkeit", "vitesse", "velocita", "snelheid")
)
# The cars' own table holds absolute load as a name of calculated load, since some data sets have nothing else.
STAND_INS: Final = frozenset({*_STAND_IN_NAMES, "absoluteload"})

NAMES: Final[dict[str, str]] = {**_STAND_IN_NAMES, **_LOGGER_NAMES, **columns.ALIASES}

# Units of what FLEVEn does not read, and words that stand where a unit would: they tell a row of units from names.
_OTHER_UNITS: Final = frozenset(
    _names(
        "",
        "v mv volt volts a ma amp amps ohm ohms nm lb-ft lbft ft-lb ftlb lbs lb kg g mg gees m km mi mile miles ft "
        "feet cm mm in deg/s deg/sec °/s dps rad rad/s hz khz bool boolean on/off flag bit bits raw hex int enum "
        "text string count counts ratio lambda λ afr mpg l/100km km/l kml l gal gallons ml cc mg/h mg/str "
        "mg/stroke mg/cyl mm3 usec n/a none - -- unit units unixtime utc hh:mm:ss hh:mm:ss.sss hh:mm:ss.fff hh:mm "
        "date time/s degree degrees ° °ca deg.ca degbtdc °btdc btdc m/s2 m/s^2 m/s² g's sats n cyc rev revs step "
        "steps w wh kwh ah",
    )
)
_KNOWN_UNITS: Final = frozenset(unit for units in columns.UNITS.values() for unit in units)
# Words in the place of a clock's unit that say how it is written, not what it counts.
_CLOCK_FORM: Final = re.compile(
    r"[hmsdyft:.,/\- ]*:[hmsdyfz:.,/\- ]*|unix ?_?time|unix|utc|gmt|local|epoch|date|time|stamp"
)


# Units in words, as `folded_key` leaves them, in the languages of the names above.
_UNIT_WORDS: Final = {
    **_names("km", "kilometer kilometers kilometre kilometres kilometro kilometros quilometro quilometros chilometri"),
    **_names("m", "meter meters metre metres metro metros metri"),
    **_names("mi", "mile miles milla millas milha milhas meile meilen miglia"),
    **_names("kn", "knot knots kt kts nudo nudos noeuds knoten nodi"),
    **_names("h", "hour hours hora horas heure heures stunde stunden ora ore"),
    **_names("min", "minute minutes minuto minutos minuten minuti"),
    **_names("s", "second seconds segundo segundos seconde secondes sekunde sekunden secondi"),
    **_names("ms", "millisekunden milisegundos millisecondes millisecondi"),
    **_names("rev", "revolution revolutions revolucion revoluciones rotacao rotacoes umdrehung umdrehungen tours giri"),
    **_names("g", "gram grams gramm gramme grammes gramo gramos grama gramas grammi"),
    **_names("kg", "kilogram kilograms kilogramm kilogrammes kilogramos quilogramas"),
    **_names("L", "liter liters litre litres litro litros"),
    **_names("%", "percentage prozent pourcent pourcentage porcentaje porciento porcento porcentagem percento"),
    **_names("kPa", "kilopascal kilopascals"),
    **_names("degC", "degreecelsius degreescelsius degrescelsius gradcelsius grauscelsius gradoscelsius"),
    **_names("degF", "degreefahrenheit degreesfahrenheit"),
}
_PER: Final = re.compile(r"[\s_]+(?:per|par|por|pro|je)[\s_]+|\s*/\s*", re.IGNORECASE)


def normal_unit(unit: str) -> str:
    """Return a unit in symbols: `kilometer_per_hour`, `miles / hour` and `km/h` with odd characters are `km/h`, `mi/h`.

    Accidents of keyboards are mended: masculine ordinal for degree, Greek mu for micro, spaces inside.
    """
    plain = unit.replace("º", "°").replace("˚", "°").replace("μ", "µ").replace("℃", "°C").replace("\u00a0", " ").strip()
    said = [part.strip(" .") for part in _PER.sub("/", plain).split("/")]
    return "/".join(_UNIT_WORDS.get(folded_key(part), part) for part in said).replace(" ", "")


def is_unit(cell: str) -> bool:
    """Whether a cell is nothing but a unit, as in a row of units."""
    plain = cell.strip().strip("[]()").strip().lower()
    return bool(plain) and (plain in _OTHER_UNITS or normal_unit(plain).lower() in _KNOWN_UNITS | _OTHER_UNITS)


def clock_unit(unit: str) -> str:
    """Return a clock's unit, an empty text where the words only say how the time is written (`hh:mm:ss`, `UTC`)."""
    return "" if _CLOCK_FORM.fullmatch(unit.strip().lower()) else unit
