BEGIN TRANSACTION;
CREATE TABLE approvals (
	retrain_id VARCHAR NOT NULL, 
	"by" VARCHAR NOT NULL, 
	at DATETIME NOT NULL, 
	reason VARCHAR NOT NULL, 
	recorded_at DATETIME DEFAULT CURRENT_TIMESTAMP NOT NULL, 
	PRIMARY KEY (retrain_id, "by"), 
	FOREIGN KEY(retrain_id) REFERENCES waits (retrain_id)
);
CREATE TABLE feature_sets (
	seq INTEGER NOT NULL, 
	pipeline VARCHAR NOT NULL, 
	version VARCHAR NOT NULL, 
	definition TEXT NOT NULL, 
	state VARCHAR NOT NULL, 
	recorded_at DATETIME DEFAULT CURRENT_TIMESTAMP NOT NULL, 
	PRIMARY KEY (seq), 
	CONSTRAINT state_is_known CHECK (state IN ('in_use', 'retired')), 
	UNIQUE (pipeline, version)
);
INSERT INTO "feature_sets" VALUES(1,'flight_delays','be221d22','{"from_event":{"carrier":{"sql":"carrier","kind":"category","columns":["carrier"]},"origin":{"sql":"origin","kind":"category","columns":["origin"]},"dest":{"sql":"dest","kind":"category","columns":["dest"]},"flight_number":{"sql":"flight","kind":"number","columns":["flight"]},"distance":{"sql":"distance","kind":"number","columns":["distance"]},"scheduled_minutes":{"sql":"scheduled_minutes","kind":"number","columns":["scheduled_minutes"]},"scheduled_speed":{"sql":"distance / scheduled_minutes","kind":"number","columns":["distance","scheduled_minutes"]},"departure_minute":{"sql":"60 * hour(timezone(''America/New_York'', scheduled_departure)) + minute(timezone(''America/New_York'', scheduled_departure))","kind":"number","columns":["scheduled_departure"]},"departure_weekday":{"sql":"isodow(timezone(''America/New_York'', scheduled_departure))","kind":"number","columns":["scheduled_departure"]}},"from_python":{},"views":[{"name":"carrier_lateness","version":"af2e46e4","keys":["carrier"],"key_types":["string"],"source":"labels","source_keys":["carrier"],"static":false,"partials":[{"column":"label","type":"bool","summed":true,"squared":false,"distinct":false,"minimum":false,"maximum":false},{"column":"arr_delay","type":"int","summed":true,"squared":false,"distinct":false,"minimum":false,"maximum":false}],"windowed":[{"name":"carrier_lateness_late_mean_3h","column":"label","aggregate":"mean","window":"PT3H"},{"name":"carrier_lateness_late_mean_6h","column":"label","aggregate":"mean","window":"PT6H"},{"name":"carrier_lateness_late_mean_12h","column":"label","aggregate":"mean","window":"PT12H"},{"name":"carrier_lateness_late_mean_1d","column":"label","aggregate":"mean","window":"P1D"},{"name":"carrier_lateness_late_mean_7d","column":"label","aggregate":"mean","window":"P7D"},{"name":"carrier_lateness_late_mean_30d","column":"label","aggregate":"mean","window":"P30D"},{"name":"carrier_lateness_arr_delay_mean_3h","column":"arr_delay","aggregate":"mean","window":"PT3H"},{"name":"carrier_lateness_arr_delay_mean_6h","column":"arr_delay","aggregate":"mean","window":"PT6H"},{"name":"carrier_lateness_arr_delay_mean_12h","column":"arr_delay","aggregate":"mean","window":"PT12H"},{"name":"carrier_lateness_arr_delay_mean_1d","column":"arr_delay","aggregate":"mean","window":"P1D"},{"name":"carrier_lateness_arr_delay_mean_7d","column":"arr_delay","aggregate":"mean","window":"P7D"},{"name":"carrier_lateness_arr_delay_mean_30d","column":"arr_delay","aggregate":"mean","window":"P30D"}],"last":[],"within":"P30D","max_age":"P1D","pipeline":null},{"name":"origin_lateness","version":"8c3bc4f4","keys":["origin"],"key_types":["string"],"source":"labels","source_keys":["origin"],"static":false,"partials":[{"column":"label","type":"bool","summed":true,"squared":false,"distinct":false,"minimum":false,"maximum":false},{"column":"arr_delay","type":"int","summed":true,"squared":false,"distinct":false,"minimum":false,"maximum":false}],"windowed":[{"name":"origin_lateness_late_mean_3h","column":"label","aggregate":"mean","window":"PT3H"},{"name":"origin_lateness_late_mean_6h","column":"label","aggregate":"mean","window":"PT6H"},{"name":"origin_lateness_late_mean_12h","column":"label","aggregate":"mean","window":"PT12H"},{"name":"origin_lateness_late_mean_1d","column":"label","aggregate":"mean","window":"P1D"},{"name":"origin_lateness_late_mean_7d","column":"label","aggregate":"mean","window":"P7D"},{"name":"origin_lateness_late_mean_30d","column":"label","aggregate":"mean","window":"P30D"},{"name":"origin_lateness_arr_delay_mean_3h","column":"arr_delay","aggregate":"mean","window":"PT3H"},{"name":"origin_lateness_arr_delay_mean_6h","column":"arr_delay","aggregate":"mean","window":"PT6H"},{"name":"origin_lateness_arr_delay_mean_12h","column":"arr_delay","aggregate":"mean","window":"PT12H"},{"name":"origin_lateness_arr_delay_mean_1d","column":"arr_delay","aggregate":"mean","window":"P1D"},{"name":"origin_lateness_arr_delay_mean_7d","column":"arr_delay","aggregate":"mean","window":"P7D"},{"name":"origin_lateness_arr_delay_mean_30d","column":"arr_delay","aggregate":"mean","window":"P30D"}],"last":[],"within":"P30D","max_age":"P1D","pipeline":null},{"name":"dest_lateness","version":"118e0857","keys":["dest"],"key_types":["string"],"source":"labels","source_keys":["dest"],"static":false,"partials":[{"column":"label","type":"bool","summed":true,"squared":false,"distinct":false,"minimum":false,"maximum":false},{"column":"arr_delay","type":"int","summed":true,"squared":false,"distinct":false,"minimum":false,"maximum":false}],"windowed":[{"name":"dest_lateness_late_mean_3h","column":"label","aggregate":"mean","window":"PT3H"},{"name":"dest_lateness_late_mean_6h","column":"label","aggregate":"mean","window":"PT6H"},{"name":"dest_lateness_late_mean_12h","column":"label","aggregate":"mean","window":"PT12H"},{"name":"dest_lateness_late_mean_1d","column":"label","aggregate":"mean","window":"P1D"},{"name":"dest_lateness_late_mean_7d","column":"label","aggregate":"mean","window":"P7D"},{"name":"dest_lateness_late_mean_30d","column":"label","aggregate":"mean","window":"P30D"},{"name":"dest_lateness_arr_delay_mean_3h","column":"arr_delay","aggregate":"mean","window":"PT3H"},{"name":"dest_lateness_arr_delay_mean_6h","column":"arr_delay","aggregate":"mean","window":"PT6H"},{"name":"dest_lateness_arr_delay_mean_12h","column":"arr_delay","aggregate":"mean","window":"PT12H"},{"name":"dest_lateness_arr_delay_mean_1d","column":"arr_delay","aggregate":"mean","window":"P1D"},{"name":"dest_lateness_arr_delay_mean_7d","column":"arr_delay","aggregate":"mean","window":"P7D"},{"name":"dest_lateness_arr_delay_mean_30d","column":"arr_delay","aggregate":"mean","window":"P30D"}],"last":[],"within":"P30D","max_age":"P1D","pipeline":null},{"name":"origin_carrier_lateness","version":"b0ce52d9","keys":["origin","carrier"],"key_types":["string","string"],"source":"labels","source_keys":["origin","carrier"],"static":false,"partials":[{"column":"label","type":"bool","summed":true,"squared":false,"distinct":false,"minimum":false,"maximum":false},{"column":"arr_delay","type":"int","summed":true,"squared":false,"distinct":false,"minimum":false,"maximum":false}],"windowed":[{"name":"origin_carrier_lateness_late_mean_3h","column":"label","aggregate":"mean","window":"PT3H"},{"name":"origin_carrier_lateness_late_mean_6h","column":"label","aggregate":"mean","window":"PT6H"},{"name":"origin_carrier_lateness_late_mean_1d","column":"label","aggregate":"mean","window":"P1D"},{"name":"origin_carrier_lateness_late_mean_30d","column":"label","aggregate":"mean","window":"P30D"},{"name":"origin_carrier_lateness_arr_delay_mean_3h","column":"arr_delay","aggregate":"mean","window":"PT3H"},{"name":"origin_carrier_lateness_arr_delay_mean_6h","column":"arr_delay","aggregate":"mean","window":"PT6H"},{"name":"origin_carrier_lateness_arr_delay_mean_1d","column":"arr_delay","aggregate":"mean","window":"P1D"},{"name":"origin_carrier_lateness_arr_delay_mean_30d","column":"arr_delay","aggregate":"mean","window":"P30D"}],"last":[],"within":"P30D","max_age":"P1D","pipeline":null},{"name":"flight_lateness","version":"bab312ce","keys":["carrier","flight"],"key_types":["string","int"],"source":"labels","source_keys":["carrier","flight"],"static":false,"partials":[{"column":"label","type":"bool","summed":true,"squared":false,"distinct":false,"minimum":false,"maximum":false},{"column":"arr_delay","type":"int","summed":true,"squared":false,"distinct":false,"minimum":false,"maximum":false}],"windowed":[{"name":"flight_lateness_late_mean_7d","column":"label","aggregate":"mean","window":"P7D"},{"name":"flight_lateness_late_mean_30d","column":"label","aggregate":"mean","window":"P30D"},{"name":"flight_lateness_arr_delay_mean_7d","column":"arr_delay","aggregate":"mean","window":"P7D"},{"name":"flight_lateness_arr_delay_mean_30d","column":"arr_delay","aggregate":"mean","window":"P30D"}],"last":[],"within":"P30D","max_age":"P1D","pipeline":null},{"name":"tail_lateness","version":"b38cfa58","keys":["tailnum"],"key_types":["string"],"source":"labels","source_keys":["tailnum"],"static":false,"partials":[{"column":"label","type":"bool","summed":true,"squared":false,"distinct":false,"minimum":false,"maximum":false},{"column":"arr_delay","type":"int","summed":true,"squared":false,"distinct":false,"minimum":false,"maximum":false}],"windowed":[{"name":"tail_lateness_late_mean_6h","column":"label","aggregate":"mean","window":"PT6H"},{"name":"tail_lateness_late_mean_1d","column":"label","aggregate":"mean","window":"P1D"},{"name":"tail_lateness_late_mean_30d","column":"label","aggregate":"mean","window":"P30D"},{"name":"tail_lateness_late_count_6h","column":"label","aggregate":"count","window":"PT6H"},{"name":"tail_lateness_late_count_1d","column":"label","aggregate":"count","window":"P1D"},{"name":"tail_lateness_late_count_30d","column":"label","aggregate":"count","window":"P30D"},{"name":"tail_lateness_arr_delay_mean_6h","column":"arr_delay","aggregate":"mean","window":"PT6H"},{"name":"tail_lateness_arr_delay_mean_1d","column":"arr_delay","aggregate":"mean","window":"P1D"},{"name":"tail_lateness_arr_delay_mean_30d","column":"arr_delay","aggregate":"mean","window":"P30D"}],"last":[{"name":"tail_lateness_arr_delay_last","column":"arr_delay","kind":"number"}],"within":"P30D","max_age":"P1D","pipeline":null},{"name":"origin_weather","version":"13f99195","keys":["origin"],"key_types":["string"],"source":"weather","source_keys":["origin"],"static":false,"partials":[],"windowed":[],"last":[{"name":"origin_weather_temp_last","column":"temp","kind":"number"},{"name":"origin_weather_humid_last","column":"humid","kind":"number"},{"name":"origin_weather_wind_dir_last","column":"wind_dir","kind":"number"},{"name":"origin_weather_wind_speed_last","column":"wind_speed","kind":"number"},{"name":"origin_weather_precip_last","column":"precip","kind":"number"},{"name":"origin_weather_pressure_last","column":"pressure","kind":"number"},{"name":"origin_weather_visib_last","column":"visib","kind":"number"}],"within":"PT3H","max_age":"P1D","pipeline":null},{"name":"plane","version":"48b37321","keys":["tailnum"],"key_types":["string"],"source":"planes","source_keys":["tailnum"],"static":true,"partials":[],"windowed":[],"last":[{"name":"plane_year_last","column":"year","kind":"number"},{"name":"plane_seats_last","column":"seats","kind":"number"},{"name":"plane_manufacturer_last","column":"manufacturer","kind":"category"}],"within":null,"max_age":"P1D","pipeline":null}]}','in_use','2026-11-22 18:39:48');
CREATE TABLE freed (
	pipeline VARCHAR NOT NULL, 
	kind VARCHAR NOT NULL, 
	name VARCHAR NOT NULL, 
	at DATETIME NOT NULL, 
	recorded_at DATETIME DEFAULT CURRENT_TIMESTAMP NOT NULL, 
	PRIMARY KEY (pipeline, kind, name), 
	CONSTRAINT kind_is_known CHECK (kind IN ('predictions', 'reports', 'model', 'dataset', 'landed'))
);
CREATE TABLE home_clock (
	id INTEGER NOT NULL CHECK (id = 1), 
	watermark DATETIME, 
	target DATETIME, 
	pipeline VARCHAR, 
	PRIMARY KEY (id)
);
INSERT INTO "home_clock" VALUES(1,'2013-04-01 00:00:00.000000',NULL,'flight_delays');
CREATE TABLE kept_tiles (
	pipeline VARCHAR NOT NULL, 
	"view" VARCHAR NOT NULL, 
	recorded_at DATETIME DEFAULT CURRENT_TIMESTAMP NOT NULL, 
	PRIMARY KEY (pipeline, "view")
);
INSERT INTO "kept_tiles" VALUES('flight_delays','carrier_lateness__af2e46e4','2026-11-22 18:39:48');
INSERT INTO "kept_tiles" VALUES('flight_delays','dest_lateness__118e0857','2026-11-22 18:39:48');
INSERT INTO "kept_tiles" VALUES('flight_delays','flight_lateness__bab312ce','2026-11-22 18:39:48');
INSERT INTO "kept_tiles" VALUES('flight_delays','origin_carrier_lateness__b0ce52d9','2026-11-22 18:39:48');
INSERT INTO "kept_tiles" VALUES('flight_delays','origin_lateness__8c3bc4f4','2026-11-22 18:39:48');
INSERT INTO "kept_tiles" VALUES('flight_delays','tail_lateness__b38cfa58','2026-11-22 18:39:48');
CREATE TABLE landed_files (
	id INTEGER NOT NULL, 
	pipeline VARCHAR NOT NULL, 
	stream VARCHAR NOT NULL, 
	path VARCHAR NOT NULL, 
	size BIGINT NOT NULL, 
	modified_at DATETIME NOT NULL, 
	arrival_day VARCHAR NOT NULL, 
	status VARCHAR DEFAULT 'pending' NOT NULL, 
	digest VARCHAR, 
	rows BIGINT, 
	accepted BIGINT, 
	quarantined BIGINT, 
	duplicates BIGINT, 
	detail VARCHAR, 
	finished_at DATETIME, 
	recorded_at DATETIME DEFAULT CURRENT_TIMESTAMP NOT NULL, 
	PRIMARY KEY (id), 
	CONSTRAINT status_is_known CHECK (status IN ('pending', 'taken', 'rejected')), 
	UNIQUE (pipeline, stream, path, size, modified_at)
);
INSERT INTO "landed_files" VALUES(1,'flight_delays','events','2013-01-01/events-2013-01-01.parquet',22319,'2026-11-22 18:39:45.036875','2013-01-01','taken','7ad5a74728fb520146cef5577c02d6b1a8c70d52d247a7e138814de090bfd4a4',709,709,0,0,'','2013-01-08 00:00:00.000000','2026-11-22 18:39:45');
INSERT INTO "landed_files" VALUES(8,'flight_delays','labels','2013-01-01/labels-2013-01-01.parquet',8892,'2026-11-22 18:39:45.037804','2013-01-01','taken','2f4c8462ae525bc981482daa05129bbb16caec1dfb7b27d5f154c64ca83625a3',498,498,0,0,'','2013-01-08 00:00:00.000000','2026-11-22 18:39:45');
INSERT INTO "landed_files" VALUES(15,'flight_delays','weather','2013-01-01/weather-2013-01-01.parquet',4956,'2026-11-22 18:39:45.038992','2013-01-01','taken','0c6cc5a9ac98578f24b456bcacf01c867da6b9462ac1882f0ecc9f2fad58d62a',49,49,0,0,'','2013-01-08 00:00:00.000000','2026-11-22 18:39:45');
INSERT INTO "landed_files" VALUES(22,'flight_delays','planes','2013-01-01/planes-2013-01-01.parquet',26478,'2026-11-22 18:39:45.034929','2013-01-01','taken','fba2fecbf3226207b291d66b47f4b8a69e5efdfcd8b65ad0f802766d3768c3d3',3322,3322,0,0,'','2013-01-08 00:00:00.000000','2026-11-22 18:39:45');
CREATE TABLE ledger_schema (
	version INTEGER NOT NULL, 
	home VARCHAR, 
	PRIMARY KEY (version)
);
INSERT INTO "ledger_schema" VALUES(10,NULL);
CREATE TABLE made_days (
	pipeline VARCHAR NOT NULL, 
	stage VARCHAR NOT NULL, 
	day VARCHAR NOT NULL, 
	revision INTEGER NOT NULL, 
	made_by VARCHAR NOT NULL, 
	PRIMARY KEY (pipeline, stage, day)
);
INSERT INTO "made_days" VALUES('flight_delays','drift','2013-02-05',1,'1111111111111111111111111111111111111111111111111111111111111111');
INSERT INTO "made_days" VALUES('flight_delays','drift','2013-02-06',1,'2222222222222222222222222222222222222222222222222222222222222222');
INSERT INTO "made_days" VALUES('flight_delays','drift','2013-02-07',1,'3333333333333333333333333333333333333333333333333333333333333333');
INSERT INTO "made_days" VALUES('flight_delays','drift','2013-02-08',1,'4444444444444444444444444444444444444444444444444444444444444444');
CREATE TABLE pipelines (
	name VARCHAR NOT NULL, 
	paused VARCHAR, 
	budget_spent VARCHAR DEFAULT '0' NOT NULL, 
	budget_as_of DATETIME, 
	PRIMARY KEY (name)
);
INSERT INTO "pipelines" VALUES('flight_delays',NULL,'1','2013-03-19 00:00:00.000000');
CREATE TABLE promotions (
	pipeline VARCHAR NOT NULL, 
	sequence INTEGER NOT NULL, 
	kind VARCHAR NOT NULL, 
	retrain_id VARCHAR NOT NULL, 
	model_hash VARCHAR NOT NULL, 
	mlflow_version VARCHAR NOT NULL, 
	previous VARCHAR, 
	at DATETIME NOT NULL, 
	"by" VARCHAR NOT NULL, 
	reason VARCHAR NOT NULL, 
	recorded_at DATETIME DEFAULT CURRENT_TIMESTAMP NOT NULL, 
	PRIMARY KEY (pipeline, sequence), 
	CONSTRAINT kind_is_known CHECK (kind IN ('gates', 'approval', 'adoption', 'rollback')), 
	FOREIGN KEY(retrain_id) REFERENCES retrains (id)
);
INSERT INTO "promotions" VALUES('flight_delays',1,'gates','flight_delays-00002','9a95638e1bf19042f44673b73c129cc4c2e2fc8fedcd1462f673ac9594179324','2',NULL,'2013-02-05 00:00:00.000000','its gates','admitted for a bootstrap trigger of 2013-01-29 00:00 UTC','2026-11-22 18:40:34');
INSERT INTO "promotions" VALUES('flight_delays',2,'gates','flight_delays-00003','63bf800f9d20fed3860f59b92b2d73bbb9a481135a281317e33ef4505565f8ee','3','2','2013-03-19 00:00:00.000000','its gates','admitted for a labels trigger of 2013-03-19 00:00 UTC','2026-11-22 18:41:29');
CREATE TABLE records (
	pipeline VARCHAR NOT NULL, 
	number INTEGER NOT NULL, 
	body TEXT NOT NULL, 
	hash VARCHAR NOT NULL, 
	"key" VARCHAR NOT NULL, 
	signature VARCHAR NOT NULL, 
	recorded_at DATETIME DEFAULT CURRENT_TIMESTAMP NOT NULL, 
	PRIMARY KEY (pipeline, number)
);
INSERT INTO "records" VALUES('flight_delays',1,'{"at":"2013-01-29T00:00:00+00:00","by":"its gates","commit":{"dirty":false,"sha":"2f46b3040d9ff88e878540e263b3e5efcfbbc966"},"dataset_version":"3083daec1656","frozen":null,"kind":"rejection","metrics":{"average_precision":{"lower":0.4994453329347428,"upper":0.5962815578035986,"value":0.5433589508318127},"brier":{"lower":0.15838905038116868,"upper":0.1934826474237485,"value":0.177667691463605},"brier_skill":{"lower":0.09658654206510968,"upper":0.1550913567020011,"value":0.12684132812427196},"expected_calibration_error":{"lower":0.03356175734066267,"upper":0.09245785958149565,"value":0.06264848071004178},"log_loss":{"lower":0.49060066844571765,"upper":0.5803514369493957,"value":0.5401183223160358},"log_loss_skill":{"lower":0.0629545918859488,"upper":0.12422510786677692,"value":0.09524314871056927},"roc_auc":{"lower":0.7079510530801573,"upper":0.7387457027999303,"value":0.7217115925567076}},"mlflow_version":"1","model_hash":"13afb358279ee3a16a3e3852aab2cec0750bbd1eb9a4f6df549dbf0a2bd91927","number":1,"pipeline":"flight_delays","previous":"0000000000000000000000000000000000000000000000000000000000000000","report":"deb22c0c69f546968bd5034c313569f8416378996614344b0074b4c29aa8634d","retrain_id":"flight_delays-00001","verdicts":[{"bound":0.9,"figure":0.9861568592539838,"gate":"data","interval":null,"outcome":"pass","sentence":"Training set 3083daec1656 is what was signed; 98.6% of its events, of days whose labels matured through 2013-01-26, have one; at least 90% are asked for."},{"bound":0.02,"figure":0.09524314871056927,"gate":"skill","interval":[0.0629545918859488,0.12422510786677692],"outcome":"pass","sentence":"log_loss_skill on the holdout is 0.0952; at least 0.02 is asked for."},{"bound":0.005,"figure":null,"gate":"champion","interval":null,"outcome":"not_applicable","sentence":"There is no champion to compare with: judged against the base rate, by its skill."},{"bound":0.05,"figure":0.06264848071004178,"gate":"calibration","interval":[0.03356175734066267,0.09245785958149565],"outcome":"fail","sentence":"expected_calibration_error on the holdout is 0.0626; at most 0.05 is allowed."},{"bound":0.6,"figure":0.635777667962959,"gate":"slices","interval":[0.5464579695684709,0.7110783633841886],"outcome":"pass","sentence":"roc_auc of the worst of 8 slices, carrier = AA, is 0.6358; at least 0.6 is asked for. Not judged, too few rows or one outcome: 10."},{"bound":0.15,"figure":0.07514919095023961,"gate":"leak","interval":null,"outcome":"pass","sentence":"origin_weather_temp_last carries 8% of the model''s importance; at most 15% is allowed, since a feature that knows it all may know what comes after the decision."},{"bound":0.05,"figure":0.016960684948012283,"gate":"robustness","interval":null,"outcome":"pass","sentence":"With 10% of the values missing, roc_auc falls by 0.0170 from 0.7229, on 5,000 rows of the holdout; at most 0.05 is allowed."},{"bound":0.7,"figure":0.755731739603521,"gate":"agreement","interval":null,"outcome":"pass","sentence":"The scores of refit and twin agree by 0.756 (concordance); at least 0.7 is asked for, since the refit serves and the twin was judged."},{"bound":5.0,"figure":0.10091266000273427,"gate":"latency","interval":null,"outcome":"pass","sentence":"Scoring one row takes 0.10 ms on the processor (p99), and 0.05 by the clock (median); at most 5 ms is allowed."},{"bound":10000000.0,"figure":532534.0,"gate":"size","interval":null,"outcome":"pass","sentence":"The model is 533 kB of text; at most 10,000 kB are allowed."}],"why":"rejected: expected_calibration_error on the holdout is 0.0626; at most 0.05 is allowed."}','fc6bec008865d8b256152756cf21259b42d9971e1bbb5f7a9db8f24c51bd96a8','f63c3f4277d81295','VKaaveimnlOk5uY2y7cdWadJMKRd2sEqDcsnl/DHBp28ekt6CdaTvfuMbmkLa9uwWcEjGJlB/uJNQ+z8JGmsCg==','2026-11-22 18:40:22');
INSERT INTO "records" VALUES('flight_delays',2,'{"at":"2013-02-05T00:00:00+00:00","authority":"gates","by":"its gates","commit":{"dirty":false,"sha":"2f46b3040d9ff88e878540e263b3e5efcfbbc966"},"dataset_version":"47292fcc4523","frozen":null,"kind":"promotion","metrics":{"average_precision":{"lower":0.38562589922019835,"upper":0.6167582592159496,"value":0.5243599374310481},"brier":{"lower":0.1316118665555259,"upper":0.19812800677590456,"value":0.16415266067709813},"brier_skill":{"lower":0.08957453532621952,"upper":0.1995724517071009,"value":0.1526500876920358},"expected_calibration_error":{"lower":0.006359190865337518,"upper":0.04517362134569519,"value":0.011825715687344664},"log_loss":{"lower":0.4226887027708945,"upper":0.5835125854607108,"value":0.5019321561572534},"log_loss_skill":{"lower":0.08883380276002946,"upper":0.16563658141627624,"value":0.12850001389769816},"roc_auc":{"lower":0.7052668797178854,"upper":0.765695691653678,"value":0.7371549332168499}},"mlflow_version":"2","model_hash":"9a95638e1bf19042f44673b73c129cc4c2e2fc8fedcd1462f673ac9594179324","number":2,"pipeline":"flight_delays","previous":"fc6bec008865d8b256152756cf21259b42d9971e1bbb5f7a9db8f24c51bd96a8","replaced":null,"report":"73c73a4d4c97676ad4e2275356fbaccf70cfda7202acf92797dc04451f789232","retrain_id":"flight_delays-00002","sequence":1,"verdicts":[{"bound":0.9,"figure":0.9779584399201037,"gate":"data","interval":null,"outcome":"pass","sentence":"Training set 47292fcc4523 is what was signed; 97.8% of its events, of days whose labels matured through 2013-02-02, have one; at least 90% are asked for."},{"bound":0.02,"figure":0.12850001389769816,"gate":"skill","interval":[0.08883380276002946,0.16563658141627624],"outcome":"pass","sentence":"log_loss_skill on the holdout is 0.1285; at least 0.02 is asked for."},{"bound":0.005,"figure":null,"gate":"champion","interval":null,"outcome":"not_applicable","sentence":"There is no champion to compare with: judged against the base rate, by its skill."},{"bound":0.05,"figure":0.011825715687344664,"gate":"calibration","interval":[0.006359190865337518,0.04517362134569519],"outcome":"pass","sentence":"expected_calibration_error on the holdout is 0.0118; at most 0.05 is allowed."},{"bound":0.6,"figure":0.6592176617235087,"gate":"slices","interval":[0.6037105351574473,0.7156194559176128],"outcome":"pass","sentence":"roc_auc of the worst of 9 slices, carrier = AA, is 0.6592; at least 0.6 is asked for. Not judged, too few rows or one outcome: 10."},{"bound":0.15,"figure":0.09158559960278681,"gate":"leak","interval":null,"outcome":"pass","sentence":"origin_weather_pressure_last carries 9% of the model''s importance; at most 15% is allowed, since a feature that knows it all may know what comes after the decision."},{"bound":0.05,"figure":0.015370197976788957,"gate":"robustness","interval":null,"outcome":"pass","sentence":"With 10% of the values missing, roc_auc falls by 0.0154 from 0.7331, on 5,000 rows of the holdout; at most 0.05 is allowed."},{"bound":0.7,"figure":0.8374375844099269,"gate":"agreement","interval":null,"outcome":"pass","sentence":"The scores of refit and twin agree by 0.837 (concordance); at least 0.7 is asked for, since the refit serves and the twin was judged."},{"bound":5.0,"figure":0.08833295999941972,"gate":"latency","interval":null,"outcome":"pass","sentence":"Scoring one row takes 0.09 ms on the processor (p99), and 0.05 by the clock (median); at most 5 ms is allowed."},{"bound":10000000.0,"figure":533859.0,"gate":"size","interval":null,"outcome":"pass","sentence":"The model is 534 kB of text; at most 10,000 kB are allowed."}],"why":"admitted for a bootstrap trigger of 2013-01-29 00:00 UTC"}','085016244fcc491986cbd1bf17226373576ffdda1629765d00bf02b290612a11','f63c3f4277d81295','AOv7TTH6/vmcKQGVR1SChVOqMsAWi2a1jQUW6nlhCH22z4/XirpgDDhqLN+s5Hpx1Q5XS6PgtmOCEx7kRUCcDw==','2026-11-22 18:40:34');
INSERT INTO "records" VALUES('flight_delays',3,'{"at":"2013-03-19T00:00:00+00:00","authority":"gates","by":"its gates","commit":{"dirty":false,"sha":"2f46b3040d9ff88e878540e263b3e5efcfbbc966"},"dataset_version":"55d39971390c","frozen":null,"kind":"promotion","metrics":{"average_precision":{"lower":0.44502681620070167,"upper":0.6934252992377303,"value":0.5793604510265965},"brier":{"lower":0.13021123594604544,"upper":0.16673699345261084,"value":0.14720858903246103},"brier_skill":{"lower":0.13383543398121261,"upper":0.2695893375951252,"value":0.21029074302864115},"expected_calibration_error":{"lower":0.007601677132939576,"upper":0.056440858590639596,"value":0.020704364892456428},"log_loss":{"lower":0.4193121295096589,"upper":0.5059090619330464,"value":0.4599363632586418},"log_loss_skill":{"lower":0.12089274041748417,"upper":0.22395829153944227,"value":0.1785894734574235},"roc_auc":{"lower":0.7295699123358557,"upper":0.8180057899071481,"value":0.7771405624679801}},"mlflow_version":"3","model_hash":"63bf800f9d20fed3860f59b92b2d73bbb9a481135a281317e33ef4505565f8ee","number":3,"pipeline":"flight_delays","previous":"085016244fcc491986cbd1bf17226373576ffdda1629765d00bf02b290612a11","replaced":"2","report":"1f3316bd9256c61a50ab579de57583664dcbb924b9fb10cb2135eecc585d9a9b","retrain_id":"flight_delays-00003","sequence":2,"verdicts":[{"bound":0.9,"figure":0.9609142000749344,"gate":"data","interval":null,"outcome":"pass","sentence":"Training set 55d39971390c is what was signed; 96.1% of its events, of days whose labels matured through 2013-03-16, have one; at least 90% are asked for."},{"bound":0.02,"figure":0.1785894734574235,"gate":"skill","interval":[0.12089274041748417,0.22395829153944227],"outcome":"pass","sentence":"log_loss_skill on the holdout is 0.1786; at least 0.02 is asked for."},{"bound":0.005,"figure":-0.003383326959378686,"gate":"champion","interval":[-0.007299908905808693,0.0006774790600801504],"outcome":"pass","sentence":"log_loss minus that of champion v2 is -0.0034 on 16,104 rows of 18 days; with 90% confidence it is at most +0.0007, and +0.005 is allowed. An equally good candidate would pass 63% of the time."},{"bound":0.05,"figure":0.020704364892456428,"gate":"calibration","interval":[0.007601677132939576,0.056440858590639596],"outcome":"pass","sentence":"expected_calibration_error on the holdout is 0.0207; at most 0.05 is allowed."},{"bound":0.6,"figure":0.6919910290081742,"gate":"slices","interval":[0.5941257133282426,0.7733213746432377],"outcome":"pass","sentence":"roc_auc of the worst of 12 slices, carrier = 9E, is 0.6920; at least 0.6 is asked for. Not judged, too few rows or one outcome: 6."},{"bound":0.15,"figure":0.06303109179567855,"gate":"leak","interval":null,"outcome":"pass","sentence":"origin_carrier_lateness_arr_delay_mean_3h carries 6% of the model''s importance; at most 15% is allowed, since a feature that knows it all may know what comes after the decision."},{"bound":0.05,"figure":0.014451057773177234,"gate":"robustness","interval":null,"outcome":"pass","sentence":"With 10% of the values missing, roc_auc falls by 0.0145 from 0.7777, on 5,000 rows of the holdout; at most 0.05 is allowed."},{"bound":0.7,"figure":0.8954882200346052,"gate":"agreement","interval":null,"outcome":"pass","sentence":"The scores of refit and twin agree by 0.895 (concordance); at least 0.7 is asked for, since the refit serves and the twin was judged."},{"bound":5.0,"figure":0.1154437700034804,"gate":"latency","interval":null,"outcome":"pass","sentence":"Scoring one row takes 0.12 ms on the processor (p99), and 0.06 by the clock (median); at most 5 ms is allowed."},{"bound":10000000.0,"figure":539087.0,"gate":"size","interval":null,"outcome":"pass","sentence":"The model is 539 kB of text; at most 10,000 kB are allowed."}],"why":"admitted for a labels trigger of 2013-03-19 00:00 UTC"}','b42db95ebb1d289187b92cfa5f202734cd3cabea6de3524f174543889f1ebce9','f63c3f4277d81295','dMcbdEyDkOzorYD+/ieftVZ5Iq2uKbHbY/1CO6ti3mPxT4DA2FvkL4QbElHy6GItpqWt4SljYxfPxnyfWLzhDQ==','2026-11-22 18:41:29');
CREATE TABLE reopened_days (
	pipeline VARCHAR NOT NULL, 
	stage VARCHAR NOT NULL, 
	day VARCHAR NOT NULL, 
	revision INTEGER NOT NULL, 
	closed_revision INTEGER DEFAULT '0' NOT NULL, 
	reopened_at DATETIME NOT NULL, 
	PRIMARY KEY (pipeline, stage, day), 
	CONSTRAINT stage_is_known CHECK (stage IN ('tiles', 'labels', 'score', 'features', 'drift', 'monitor', 'mature'))
);
INSERT INTO "reopened_days" VALUES('flight_delays','drift','2013-02-05',1,1,'2013-02-12 00:00:00.000000');
INSERT INTO "reopened_days" VALUES('flight_delays','drift','2013-02-06',1,1,'2013-02-12 00:00:00.000000');
INSERT INTO "reopened_days" VALUES('flight_delays','drift','2013-02-07',1,1,'2013-02-12 00:00:00.000000');
INSERT INTO "reopened_days" VALUES('flight_delays','drift','2013-02-08',1,1,'2013-02-12 00:00:00.000000');
INSERT INTO "reopened_days" VALUES('flight_delays','mature','2013-02-05',1,0,'2013-02-12 00:00:00.000000');
INSERT INTO "reopened_days" VALUES('flight_delays','mature','2013-02-06',1,0,'2013-02-12 00:00:00.000000');
INSERT INTO "reopened_days" VALUES('flight_delays','monitor','2013-02-08',1,0,'2013-02-12 00:00:00.000000');
CREATE TABLE retrains (
	id VARCHAR NOT NULL, 
	pipeline VARCHAR NOT NULL, 
	seq INTEGER NOT NULL, 
	status VARCHAR NOT NULL, 
	watermark DATETIME NOT NULL, 
	token VARCHAR NOT NULL, 
	run_id VARCHAR NOT NULL, 
	started_at DATETIME NOT NULL, 
	losses INTEGER DEFAULT '0' NOT NULL, 
	data_mark VARCHAR NOT NULL, 
	reason VARCHAR NOT NULL, 
	dataset_version VARCHAR, 
	feature_set VARCHAR, 
	matured_rows BIGINT, 
	cutoff DATETIME, 
	model_hash VARCHAR, 
	mlflow_version VARCHAR, 
	mlflow_run_id VARCHAR, 
	judged_model_hash VARCHAR, 
	outcome VARCHAR, 
	finished_at DATETIME, 
	recorded_at DATETIME DEFAULT CURRENT_TIMESTAMP NOT NULL, 
	PRIMARY KEY (id), 
	CONSTRAINT status_is_known CHECK (status IN ('running', 'lost', 'promoted', 'rejected', 'failed', 'nothing', 'waiting', 'expired', 'rolled_back')), 
	CONSTRAINT finished_has_time CHECK ((status IN ('running', 'lost')) = (finished_at IS NULL)), 
	UNIQUE (pipeline, seq)
);
INSERT INTO "retrains" VALUES('flight_delays-00001','flight_delays',1,'rejected','2013-01-29 00:00:00.000000','6daf39a08d0ce48845ed444120a2a91c','57c96719-d606-4dfc-bf3d-07bbc83f97d9','2013-01-29 00:00:00.000000',0,'210192a68fc79b1f','admitted for a bootstrap trigger of 2013-01-29 00:00 UTC','3083daec1656','be221d22',22155,'2013-01-26 23:59:00.000000','13afb358279ee3a16a3e3852aab2cec0750bbd1eb9a4f6df549dbf0a2bd91927','1','45e431137be8473b8a56767d88c88559','13afb358279ee3a16a3e3852aab2cec0750bbd1eb9a4f6df549dbf0a2bd91927','rejected: expected_calibration_error on the holdout is 0.0626; at most 0.05 is allowed.','2013-01-29 00:00:00.000000','2026-11-22 18:40:07');
INSERT INTO "retrains" VALUES('flight_delays-00002','flight_delays',2,'promoted','2013-02-05 00:00:00.000000','a47585e25f78f5c467b22d0f54b1aa43','a6be6835-5722-464c-bc6b-089323f53af4','2013-02-05 00:00:00.000000',0,'b794ab86d8bad5ae','admitted for a bootstrap trigger of 2013-01-29 00:00 UTC','47292fcc4523','be221d22',27908,'2013-02-02 23:59:00.000000','9a95638e1bf19042f44673b73c129cc4c2e2fc8fedcd1462f673ac9594179324','2','c9f30890e264461fac0967a3f07ef37c','9a95638e1bf19042f44673b73c129cc4c2e2fc8fedcd1462f673ac9594179324','version 2 is champion number 1','2013-02-05 00:00:00.000000','2026-11-22 18:40:26');
INSERT INTO "retrains" VALUES('flight_delays-00003','flight_delays',3,'promoted','2013-03-19 00:00:00.000000','6b9ffe53b46563c5afa0b6511b454dac','219d3cac-ef7e-4ef7-8af9-19e54fcb959a','2013-03-19 00:00:00.000000',0,'97a7506d7c720561','admitted for a labels trigger of 2013-03-19 00:00 UTC','55d39971390c','be221d22',64117,'2013-03-16 23:59:00.000000','63bf800f9d20fed3860f59b92b2d73bbb9a481135a281317e33ef4505565f8ee','3','9463dbdfb8244b84bfe45e2b7837bc81','63bf800f9d20fed3860f59b92b2d73bbb9a481135a281317e33ef4505565f8ee','version 3 is champion number 2','2013-03-19 00:00:00.000000','2026-11-22 18:41:16');
CREATE TABLE triggers (
	id INTEGER NOT NULL, 
	pipeline VARCHAR NOT NULL, 
	kind VARCHAR NOT NULL, 
	"key" VARCHAR NOT NULL, 
	evidence JSON NOT NULL, 
	urgent BOOLEAN NOT NULL, 
	created_at DATETIME NOT NULL, 
	status VARCHAR DEFAULT 'pending' NOT NULL, 
	retrain_id VARCHAR, 
	ended_at DATETIME, 
	reason VARCHAR, 
	recorded_at DATETIME DEFAULT CURRENT_TIMESTAMP NOT NULL, 
	PRIMARY KEY (id), 
	CONSTRAINT status_is_known CHECK (status IN ('pending', 'served', 'folded', 'expired')), 
	CONSTRAINT ended_has_time CHECK ((status = 'pending') = (ended_at IS NULL)), 
	CONSTRAINT answered_has_retrain CHECK ((status IN ('served', 'folded')) = (retrain_id IS NOT NULL)), 
	UNIQUE (pipeline, "key"), 
	FOREIGN KEY(retrain_id) REFERENCES retrains (id)
);
INSERT INTO "triggers" VALUES(1,'flight_delays','bootstrap','bootstrap:first','{"matured_rows": 22155, "min_rows": 20000}',0,'2013-01-29 00:00:00.000000','served','flight_delays-00001','2013-01-29 00:00:00.000000','served by retrain flight_delays-00001','2026-11-22 18:40:07');
INSERT INTO "triggers" VALUES(2,'flight_delays','bootstrap','bootstrap:flight_delays-00001','{"matured_rows": 22155, "min_rows": 20000}',0,'2013-01-29 00:00:00.000000','served','flight_delays-00002','2013-02-05 00:00:00.000000','served by retrain flight_delays-00002','2026-11-22 18:40:22');
INSERT INTO "triggers" VALUES(3,'flight_delays','labels','labels:flight_delays-00002','{"new_labels": 36209, "at_least": 30000, "since": "flight_delays-00002"}',0,'2013-03-19 00:00:00.000000','served','flight_delays-00003','2013-03-19 00:00:00.000000','served by retrain flight_delays-00003','2026-11-22 18:41:13');
CREATE TABLE verdicts (
	retrain_id VARCHAR NOT NULL, 
	model_hash VARCHAR NOT NULL, 
	gate VARCHAR NOT NULL, 
	position INTEGER NOT NULL, 
	outcome VARCHAR NOT NULL, 
	figure FLOAT, 
	bound FLOAT, 
	interval_low FLOAT, 
	interval_high FLOAT, 
	sentence VARCHAR NOT NULL, 
	at DATETIME NOT NULL, 
	recorded_at DATETIME DEFAULT CURRENT_TIMESTAMP NOT NULL, 
	PRIMARY KEY (retrain_id, model_hash, gate), 
	CONSTRAINT outcome_is_known CHECK (outcome IN ('pass', 'fail', 'warn', 'not_applicable')), 
	FOREIGN KEY(retrain_id) REFERENCES retrains (id)
);
INSERT INTO "verdicts" VALUES('flight_delays-00001','13afb358279ee3a16a3e3852aab2cec0750bbd1eb9a4f6df549dbf0a2bd91927','data',0,'pass',9.86156859253983775204e-01,0.9,NULL,NULL,'Training set 3083daec1656 is what was signed; 98.6% of its events, of days whose labels matured through 2013-01-26, have one; at least 90% are asked for.','2013-01-29 00:00:00.000000','2026-11-22 18:40:22');
INSERT INTO "verdicts" VALUES('flight_delays-00001','13afb358279ee3a16a3e3852aab2cec0750bbd1eb9a4f6df549dbf0a2bd91927','skill',1,'pass',9.5243148710569269788e-02,0.02,0.0629545918859488,1.2422510786677691541e-01,'log_loss_skill on the holdout is 0.0952; at least 0.02 is asked for.','2013-01-29 00:00:00.000000','2026-11-22 18:40:22');
INSERT INTO "verdicts" VALUES('flight_delays-00001','13afb358279ee3a16a3e3852aab2cec0750bbd1eb9a4f6df549dbf0a2bd91927','champion',2,'not_applicable',NULL,0.005,NULL,NULL,'There is no champion to compare with: judged against the base rate, by its skill.','2013-01-29 00:00:00.000000','2026-11-22 18:40:22');
INSERT INTO "verdicts" VALUES('flight_delays-00001','13afb358279ee3a16a3e3852aab2cec0750bbd1eb9a4f6df549dbf0a2bd91927','calibration',3,'fail',6.26484807100417817604e-02,0.05,3.35617573406626693022e-02,9.24578595814956466503e-02,'expected_calibration_error on the holdout is 0.0626; at most 0.05 is allowed.','2013-01-29 00:00:00.000000','2026-11-22 18:40:22');
INSERT INTO "verdicts" VALUES('flight_delays-00001','13afb358279ee3a16a3e3852aab2cec0750bbd1eb9a4f6df549dbf0a2bd91927','slices',4,'pass',0.635777667962959,0.6,5.46457969568470924848e-01,7.11078363384188616436e-01,'roc_auc of the worst of 8 slices, carrier = AA, is 0.6358; at least 0.6 is asked for. Not judged, too few rows or one outcome: 10.','2013-01-29 00:00:00.000000','2026-11-22 18:40:22');
INSERT INTO "verdicts" VALUES('flight_delays-00001','13afb358279ee3a16a3e3852aab2cec0750bbd1eb9a4f6df549dbf0a2bd91927','leak',5,'pass',7.51491909502396138176e-02,0.15,NULL,NULL,'origin_weather_temp_last carries 8% of the model''s importance; at most 15% is allowed, since a feature that knows it all may know what comes after the decision.','2013-01-29 00:00:00.000000','2026-11-22 18:40:22');
INSERT INTO "verdicts" VALUES('flight_delays-00001','13afb358279ee3a16a3e3852aab2cec0750bbd1eb9a4f6df549dbf0a2bd91927','robustness',6,'pass',1.6960684948012283435e-02,0.05,NULL,NULL,'With 10% of the values missing, roc_auc falls by 0.0170 from 0.7229, on 5,000 rows of the holdout; at most 0.05 is allowed.','2013-01-29 00:00:00.000000','2026-11-22 18:40:22');
INSERT INTO "verdicts" VALUES('flight_delays-00001','13afb358279ee3a16a3e3852aab2cec0750bbd1eb9a4f6df549dbf0a2bd91927','agreement',7,'pass',0.755731739603521,0.7,NULL,NULL,'The scores of refit and twin agree by 0.756 (concordance); at least 0.7 is asked for, since the refit serves and the twin was judged.','2013-01-29 00:00:00.000000','2026-11-22 18:40:22');
INSERT INTO "verdicts" VALUES('flight_delays-00001','13afb358279ee3a16a3e3852aab2cec0750bbd1eb9a4f6df549dbf0a2bd91927','latency',8,'pass',1.0091266000273427239e-01,5.0,NULL,NULL,'Scoring one row takes 0.10 ms on the processor (p99), and 0.05 by the clock (median); at most 5 ms is allowed.','2013-01-29 00:00:00.000000','2026-11-22 18:40:22');
INSERT INTO "verdicts" VALUES('flight_delays-00001','13afb358279ee3a16a3e3852aab2cec0750bbd1eb9a4f6df549dbf0a2bd91927','size',9,'pass',532534.0,10000000.0,NULL,NULL,'The model is 533 kB of text; at most 10,000 kB are allowed.','2013-01-29 00:00:00.000000','2026-11-22 18:40:22');
INSERT INTO "verdicts" VALUES('flight_delays-00002','9a95638e1bf19042f44673b73c129cc4c2e2fc8fedcd1462f673ac9594179324','data',0,'pass',9.77958439920103672626e-01,0.9,NULL,NULL,'Training set 47292fcc4523 is what was signed; 97.8% of its events, of days whose labels matured through 2013-02-02, have one; at least 90% are asked for.','2013-02-05 00:00:00.000000','2026-11-22 18:40:34');
INSERT INTO "verdicts" VALUES('flight_delays-00002','9a95638e1bf19042f44673b73c129cc4c2e2fc8fedcd1462f673ac9594179324','skill',1,'pass',1.28500013897698162068e-01,0.02,8.8833802760029459411e-02,1.65636581416276240652e-01,'log_loss_skill on the holdout is 0.1285; at least 0.02 is asked for.','2013-02-05 00:00:00.000000','2026-11-22 18:40:34');
INSERT INTO "verdicts" VALUES('flight_delays-00002','9a95638e1bf19042f44673b73c129cc4c2e2fc8fedcd1462f673ac9594179324','champion',2,'not_applicable',NULL,0.005,NULL,NULL,'There is no champion to compare with: judged against the base rate, by its skill.','2013-02-05 00:00:00.000000','2026-11-22 18:40:34');
INSERT INTO "verdicts" VALUES('flight_delays-00002','9a95638e1bf19042f44673b73c129cc4c2e2fc8fedcd1462f673ac9594179324','calibration',3,'pass',1.18257156873446643563e-02,0.05,6.35919086533751759526e-03,4.5173621345695191831e-02,'expected_calibration_error on the holdout is 0.0118; at most 0.05 is allowed.','2013-02-05 00:00:00.000000','2026-11-22 18:40:34');
INSERT INTO "verdicts" VALUES('flight_delays-00002','9a95638e1bf19042f44673b73c129cc4c2e2fc8fedcd1462f673ac9594179324','slices',4,'pass',6.59217661723508707716e-01,0.6,6.03710535157447325538e-01,7.15619455917612778961e-01,'roc_auc of the worst of 9 slices, carrier = AA, is 0.6592; at least 0.6 is asked for. Not judged, too few rows or one outcome: 10.','2013-02-05 00:00:00.000000','2026-11-22 18:40:34');
INSERT INTO "verdicts" VALUES('flight_delays-00002','9a95638e1bf19042f44673b73c129cc4c2e2fc8fedcd1462f673ac9594179324','leak',5,'pass',9.15855996027868102249e-02,0.15,NULL,NULL,'origin_weather_pressure_last carries 9% of the model''s importance; at most 15% is allowed, since a feature that knows it all may know what comes after the decision.','2013-02-05 00:00:00.000000','2026-11-22 18:40:34');
INSERT INTO "verdicts" VALUES('flight_delays-00002','9a95638e1bf19042f44673b73c129cc4c2e2fc8fedcd1462f673ac9594179324','robustness',6,'pass',1.53701979767889573835e-02,0.05,NULL,NULL,'With 10% of the values missing, roc_auc falls by 0.0154 from 0.7331, on 5,000 rows of the holdout; at most 0.05 is allowed.','2013-02-05 00:00:00.000000','2026-11-22 18:40:34');
INSERT INTO "verdicts" VALUES('flight_delays-00002','9a95638e1bf19042f44673b73c129cc4c2e2fc8fedcd1462f673ac9594179324','agreement',7,'pass',8.37437584409926882855e-01,0.7,NULL,NULL,'The scores of refit and twin agree by 0.837 (concordance); at least 0.7 is asked for, since the refit serves and the twin was judged.','2013-02-05 00:00:00.000000','2026-11-22 18:40:34');
INSERT INTO "verdicts" VALUES('flight_delays-00002','9a95638e1bf19042f44673b73c129cc4c2e2fc8fedcd1462f673ac9594179324','latency',8,'pass',8.83329599994197162127e-02,5.0,NULL,NULL,'Scoring one row takes 0.09 ms on the processor (p99), and 0.05 by the clock (median); at most 5 ms is allowed.','2013-02-05 00:00:00.000000','2026-11-22 18:40:34');
INSERT INTO "verdicts" VALUES('flight_delays-00002','9a95638e1bf19042f44673b73c129cc4c2e2fc8fedcd1462f673ac9594179324','size',9,'pass',533859.0,10000000.0,NULL,NULL,'The model is 534 kB of text; at most 10,000 kB are allowed.','2013-02-05 00:00:00.000000','2026-11-22 18:40:34');
INSERT INTO "verdicts" VALUES('flight_delays-00003','63bf800f9d20fed3860f59b92b2d73bbb9a481135a281317e33ef4505565f8ee','data',0,'pass',9.60914200074934443662e-01,0.9,NULL,NULL,'Training set 55d39971390c is what was signed; 96.1% of its events, of days whose labels matured through 2013-03-16, have one; at least 90% are asked for.','2013-03-19 00:00:00.000000','2026-11-22 18:41:28');
INSERT INTO "verdicts" VALUES('flight_delays-00003','63bf800f9d20fed3860f59b92b2d73bbb9a481135a281317e33ef4505565f8ee','skill',1,'pass',1.78589473457423486557e-01,0.02,1.20892740417484170767e-01,2.2395829153944227241e-01,'log_loss_skill on the holdout is 0.1786; at least 0.02 is asked for.','2013-03-19 00:00:00.000000','2026-11-22 18:41:28');
INSERT INTO "verdicts" VALUES('flight_delays-00003','63bf800f9d20fed3860f59b92b2d73bbb9a481135a281317e33ef4505565f8ee','champion',2,'pass',-3.38332695937868617105e-03,0.005,-7.2999089058086927273e-03,6.77479060080150418537e-04,'log_loss minus that of champion v2 is -0.0034 on 16,104 rows of 18 days; with 90% confidence it is at most +0.0007, and +0.005 is allowed. An equally good candidate would pass 63% of the time.','2013-03-19 00:00:00.000000','2026-11-22 18:41:28');
INSERT INTO "verdicts" VALUES('flight_delays-00003','63bf800f9d20fed3860f59b92b2d73bbb9a481135a281317e33ef4505565f8ee','calibration',3,'pass',2.07043648924564276103e-02,0.05,7.60167713293957627435e-03,5.64408585906395962594e-02,'expected_calibration_error on the holdout is 0.0207; at most 0.05 is allowed.','2013-03-19 00:00:00.000000','2026-11-22 18:41:28');
INSERT INTO "verdicts" VALUES('flight_delays-00003','63bf800f9d20fed3860f59b92b2d73bbb9a481135a281317e33ef4505565f8ee','slices',4,'pass',6.91991029008174218795e-01,0.6,5.94125713328242599509e-01,7.73321374643237691159e-01,'roc_auc of the worst of 12 slices, carrier = 9E, is 0.6920; at least 0.6 is asked for. Not judged, too few rows or one outcome: 6.','2013-03-19 00:00:00.000000','2026-11-22 18:41:28');
INSERT INTO "verdicts" VALUES('flight_delays-00003','63bf800f9d20fed3860f59b92b2d73bbb9a481135a281317e33ef4505565f8ee','leak',5,'pass',6.30310917956785482507e-02,0.15,NULL,NULL,'origin_carrier_lateness_arr_delay_mean_3h carries 6% of the model''s importance; at most 15% is allowed, since a feature that knows it all may know what comes after the decision.','2013-03-19 00:00:00.000000','2026-11-22 18:41:28');
INSERT INTO "verdicts" VALUES('flight_delays-00003','63bf800f9d20fed3860f59b92b2d73bbb9a481135a281317e33ef4505565f8ee','robustness',6,'pass',1.44510577731772338339e-02,0.05,NULL,NULL,'With 10% of the values missing, roc_auc falls by 0.0145 from 0.7777, on 5,000 rows of the holdout; at most 0.05 is allowed.','2013-03-19 00:00:00.000000','2026-11-22 18:41:28');
INSERT INTO "verdicts" VALUES('flight_delays-00003','63bf800f9d20fed3860f59b92b2d73bbb9a481135a281317e33ef4505565f8ee','agreement',7,'pass',8.95488220034605153507e-01,0.7,NULL,NULL,'The scores of refit and twin agree by 0.895 (concordance); at least 0.7 is asked for, since the refit serves and the twin was judged.','2013-03-19 00:00:00.000000','2026-11-22 18:41:28');
INSERT INTO "verdicts" VALUES('flight_delays-00003','63bf800f9d20fed3860f59b92b2d73bbb9a481135a281317e33ef4505565f8ee','latency',8,'pass',1.15443770003480397634e-01,5.0,NULL,NULL,'Scoring one row takes 0.12 ms on the processor (p99), and 0.06 by the clock (median); at most 5 ms is allowed.','2013-03-19 00:00:00.000000','2026-11-22 18:41:28');
INSERT INTO "verdicts" VALUES('flight_delays-00003','63bf800f9d20fed3860f59b92b2d73bbb9a481135a281317e33ef4505565f8ee','size',9,'pass',539087.0,10000000.0,NULL,NULL,'The model is 539 kB of text; at most 10,000 kB are allowed.','2013-03-19 00:00:00.000000','2026-11-22 18:41:28');
CREATE TABLE waits (
	retrain_id VARCHAR NOT NULL, 
	pipeline VARCHAR NOT NULL, 
	model_hash VARCHAR NOT NULL, 
	mlflow_version VARCHAR NOT NULL, 
	sequence INTEGER NOT NULL, 
	approvals INTEGER NOT NULL, 
	asked_at DATETIME NOT NULL, 
	expires_at DATETIME NOT NULL, 
	recorded_at DATETIME DEFAULT CURRENT_TIMESTAMP NOT NULL, 
	PRIMARY KEY (retrain_id), 
	FOREIGN KEY(retrain_id) REFERENCES retrains (id)
);
CREATE INDEX landed_files_by_digest ON landed_files (pipeline, stream, digest);
CREATE INDEX landed_files_by_day ON landed_files (pipeline, stream, arrival_day);
CREATE INDEX landed_files_by_status ON landed_files (pipeline, status, arrival_day, path);
CREATE INDEX days_still_open ON reopened_days (pipeline, stage, day) WHERE revision > closed_revision;
CREATE INDEX retrains_by_run ON retrains (run_id);
CREATE INDEX retrains_by_data_mark ON retrains (pipeline, data_mark);
CREATE INDEX retrains_by_status ON retrains (pipeline, status, seq);
CREATE UNIQUE INDEX one_retrain_in_flight ON retrains (pipeline) WHERE status IN ('running', 'lost');
CREATE INDEX triggers_by_status ON triggers (pipeline, status, created_at);
CREATE INDEX triggers_by_retrain ON triggers (retrain_id);
CREATE UNIQUE INDEX one_promotion_a_retrain ON promotions (retrain_id) WHERE kind IN ('gates', 'approval');
CREATE INDEX promotions_by_retrain ON promotions (retrain_id);
CREATE INDEX waits_by_pipeline ON waits (pipeline);
CREATE INDEX triggers_that_wait ON triggers (pipeline, created_at, kind, "key") WHERE status = 'pending';
CREATE INDEX triggers_that_press ON triggers (pipeline) WHERE status = 'pending' AND urgent;
COMMIT;
